package acceptance

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"edgeclaim/internal/mosquitto"
	"edgeclaim/internal/mqttproxy"
	"edgeclaim/internal/postgres"
)

// storyBoxes are the boxes of a story, of two lines on one site.
var storyBoxes = []string{"a", "b"}

// TestStories tells what documents from upstream are for: two boxes, a hub,
// Mosquitto and PostgreSQL, all real, as testdata/stories says. Each story is a
// script of its own; README.md there says the words that are not the programs'.
func TestStories(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/stories/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no stories: ", err)
	}
	for i, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".txtar")
		t.Run(name, func(t *testing.T) {
			if testing.Short() && i%5 != 0 {
				t.Skip("two of the stories will do")
			}
			t.Parallel()
			s := newStory(t)
			words := s.words()
			maps.Copy(words, map[string]word{
				"start": s.start, "crash": s.crash, "halt": s.halt, "cut": s.cut, "heal": s.heal,
				"on": s.on, "hub": s.onHub, "until": s.until, "pick": pickJSON, "claim": s.claim, "sign": s.sign,
			})
			testscript.Run(t, testscript.Params{Files: []string{file}, RequireExplicitExec: true, Setup: s.setup, Cmds: words})
		})
	}
}

// story is the processes of one.
type story struct {
	t       *testing.T
	hub     *hub
	boxes   map[string]*box
	cables  map[string]*mqttproxy.Proxy // of boxes, to the broker
	program string                      // edgehub
	docKey  string                      // the file of the key that signs documents
	// listening are the devices that listen, by box and id: closed when hung up on.
	listening map[string]<-chan struct{}
}

func newStory(t *testing.T) *story {
	t.Helper()
	broker := mosquitto.Start(t, mosquitto.Options{})
	path, err := buildHub()
	if err != nil {
		t.Fatal(err)
	}
	s := &story{t: t, program: path, listening: map[string]<-chan struct{}{}, boxes: map[string]*box{}, cables: map[string]*mqttproxy.Proxy{}}
	s.hub = newHub(t, broker.Addr()).quick()
	s.hub.database = postgres.Start(t).URL()
	s.docKey = filepath.Join(t.TempDir(), "documents.key")
	public := strings.TrimSpace(string(s.run(path, "sign", "--new-key", s.docKey)))
	s.hub.args = append(s.hub.args, "--document-key", public)
	s.hub.start()
	for _, name := range storyBoxes {
		s.cables[name] = mqttproxy.Start(t, broker.Addr(), 1)
		s.boxes[name] = appBox(t, s.cables[name].Addr(), "--site", "plant7")
		s.boxes[name].start()
		s.boxes[name].enrol(s.hub)
		s.boxes[name].welcome()
	}
	return s
}

// setup puts the programs on the script's PATH, and names what it needs.
func (s *story) setup(env *testscript.Env) error {
	bin := filepath.Join(env.WorkDir, ".bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		return err
	}
	for name, path := range map[string]string{"edgeclaim": program, "edgehub": s.program} {
		if err := os.Symlink(path, filepath.Join(bin, name)); err != nil {
			return err
		}
	}
	env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
	env.Setenv("TENANT", tenant)
	setKeys(env.Setenv)
	env.Setenv("DOCUMENT_KEY", s.docKey)
	for name, b := range s.boxes {
		env.Setenv("BOX_"+name, b.status().BoxID)
	}
	return nil
}

// box is the one of that name.
func (s *story) box(ts *testscript.TestScript, args []string, usage string) *box {
	if len(args) == 0 || s.boxes[args[0]] == nil {
		ts.Fatalf("usage: %s, BOX one of %s", usage, strings.Join(storyBoxes, " "))
	}
	return s.boxes[args[0]]
}

// on BOX ARGS… runs an edgeclaim command on a box; ! wants it to fail.
func (s *story) on(ts *testscript.TestScript, neg bool, args []string) {
	b := s.box(ts, args, "on BOX COMMAND…")
	s.exec(ts, neg, "edgeclaim", append(slices.Clone(args[1:]), "--data", b.data))
}

// hub ARGS… runs an edgehub command.
func (s *story) onHub(ts *testscript.TestScript, neg bool, args []string) {
	s.exec(ts, neg, "edgehub", s.hub.line(args))
}

func (s *story) exec(ts *testscript.TestScript, neg bool, name string, args []string) {
	err := ts.Exec(name, args...)
	if failed := err != nil; failed != neg {
		ts.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
}

// until PATTERN on BOX ARGS… or until PATTERN hub ARGS… runs a command until what
// it prints matches; ! until it does not match any more.
func (s *story) until(ts *testscript.TestScript, neg bool, args []string) {
	const usage = "until PATTERN (on BOX | hub) COMMAND…"
	if len(args) < 3 {
		ts.Fatalf("usage: %s", usage)
	}
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	run := func() string {
		var out []byte
		if args[1] == "on" {
			out, _, _ = s.box(ts, args[2:], usage).command("", args[3:]...)
		} else {
			out, _, _ = s.hub.command("", args[2:]...)
		}
		return string(out)
	}
	deadline := time.NewTimer(patience)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		out := run()
		if pattern.MatchString(out) != neg {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			ts.Fatalf("waited %v in vain, at last it said:\n%s", patience, out)
		}
	}
}

// start BOX, or start hub: it runs, and is ready.
func (s *story) start(ts *testscript.TestScript, neg bool, args []string) {
	if slices.Equal(args, []string{"hub"}) {
		s.hub.start()
		return
	}
	s.box(ts, args, "start BOX").start()
}

// crash BOX, or crash hub: SIGKILL. (kill and stop are testscript's own words: its
// stop ends the script, well.)
func (s *story) crash(ts *testscript.TestScript, neg bool, args []string) {
	if slices.Equal(args, []string{"hub"}) {
		s.hub.kill()
		return
	}
	s.box(ts, args, "crash BOX").kill()
}

// halt BOX, or halt hub: SIGTERM.
func (s *story) halt(ts *testscript.TestScript, neg bool, args []string) {
	if slices.Equal(args, []string{"hub"}) {
		s.hub.stop()
		return
	}
	s.box(ts, args, "halt BOX").stop()
}

// cut BOX: its line upstream is dead.
func (s *story) cut(ts *testscript.TestScript, neg bool, args []string) {
	s.box(ts, args, "cut BOX")
	s.cables[args[0]].Refuse()
}

// heal BOX: and is well again.
func (s *story) heal(ts *testscript.TestScript, neg bool, args []string) {
	s.box(ts, args, "heal BOX")
	s.cables[args[0]].Heal()
}

// claim BOX KEY HARDWARE [NAME]: a board claims there, over HTTP; ! is refused.
// What it was answered is the standard output, for pick.
func (s *story) claim(ts *testscript.TestScript, neg bool, args []string) {
	b := s.box(ts, args, "claim BOX KEY HARDWARE [NAME]")
	if len(args) < 3 {
		ts.Fatalf("usage: claim BOX KEY HARDWARE [NAME]")
	}
	name := append(slices.Clone(args), "board")[3]
	s.exec(ts, neg, "edgeclaim", []string{
		"claim", "--url", "http://" + b.httpAddr, "--key", args[1], "--hardware-id", args[2], "--name", name, "--json",
	})
}

// sign FILE… signs documents where the key is, each into FILE.signed.
func (s *story) sign(ts *testscript.TestScript, neg bool, args []string) {
	for _, file := range args {
		s.exec(ts, neg, "edgehub", []string{"sign", ts.MkAbs(file), "--key", s.docKey, "--out", ts.MkAbs(file) + ".signed"})
	}
}

// pickJSON VARIABLE PATH sets a variable to a value of the JSON that the last
// command printed; PATH is like 0.provision_key.
func pickJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: pick VARIABLE PATH")
	}
	var value any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &value))
	for step := range strings.SplitSeq(args[1], ".") {
		switch at := value.(type) {
		case map[string]any:
			value = at[step]
		case []any:
			i, err := strconv.Atoi(step)
			ts.Check(err)
			if i >= len(at) {
				ts.Fatalf("%s: only %d elements", args[1], len(at))
			}
			value = at[i]
		}
	}
	text, ok := value.(string)
	if !ok {
		ts.Fatalf("%s is not there", args[1])
	}
	ts.Setenv(args[0], text)
}

// run runs a program that must end well.
func (s *story) run(name string, args ...string) []byte {
	s.t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		s.t.Fatalf("%s %s: %v", name, strings.Join(args, " "), err)
	}
	return out
}
