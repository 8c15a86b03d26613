package acceptance

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"testing"

	"github.com/gin-gonic/gin"
)

// peerVariable makes this test binary an empty gin handler that writes its
// address to the file it names.
const peerVariable = "EDGECLAIM_BENCH_PEER"

// servePeer is the peer of the HTTP benchmark: gin, a body of the size of an
// answer, and nothing behind it.
func servePeer(addrFile string) int {
	gin.SetMode(gin.ReleaseMode)
	engine := gin.New()
	engine.POST("/api/v1/provision", func(c *gin.Context) {
		c.Data(http.StatusOK, "application/json", []byte(`{"device_id":"5d27c51e-2d1e-5284-ba71-d8ce1b6a6055","api_key":"sk_live_0000000000000000000000000000000000000000000"}`))
	})
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err == nil {
		err = os.WriteFile(addrFile, []byte(listener.Addr().String()+"\n"), 0o600)
	}
	if err == nil {
		err = http.Serve(listener, engine)
	}
	fmt.Fprintln(os.Stderr, err)
	return 1
}

func runPeer(b *testing.B, self, addrFile string) {
	b.Helper()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), peerVariable+"="+addrFile)
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
	})
}
