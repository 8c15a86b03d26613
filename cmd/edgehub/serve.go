package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub"
	"edgeclaim/bridge/hub/registry"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
)

// maxHeaderBytes is the largest header that the listener reads.
const maxHeaderBytes = 16 << 10

func (a *app) serveCommand() *cobra.Command {
	var start anew
	c := &cobra.Command{
		Use: "serve", Short: "Run the hub", Args: cobra.NoArgs,
		Long: "Run the hub: take what boxes tell through the broker, commit it to the database and acknowledge it.\n" +
			"The data folder holds the key that signs what boxes are told. Back it up beside the database.",
		Example: "  edgehub serve --data hub --broker mqtt://127.0.0.1:1883\n" +
			"  EDGEHUB_DATABASE=postgres://hub@db/hub edgehub serve --config /etc/edgehub/edgehub.yaml",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.applySettings(cmd, slices.Concat(serveFlags, documentFlags)...)
			if err != nil {
				return err
			}
			return a.serve(cmd.Context(), &s, start)
		},
	}
	addAnew(c, &start)
	addFlags(c, serveFlags...)
	addFlags(c, documentFlags...)
	addFlags(c, applyFlags...)
	addTenants(c)
	return c
}

// server is the running program.
type server struct {
	settings *settings
	logger   *slog.Logger
	db       *registry.DB
	hub      *hub.Hub
	gauges   *gauges
	listener net.Listener // nil for none
}

// serve runs the hub until ctx ends.
func (a *app) serve(ctx context.Context, s *settings, start anew) (err error) {
	logger, err := s.Log.Logger(a.stderr)
	if err != nil {
		return err
	}
	held, err := lock(s.Data)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, held.Close()) }()
	v := &server{settings: s, logger: logger, gauges: newGauges(readBuild())}
	// Opening is quick; broken off half-way it would be a failure, not a stop.
	if err := v.open(context.WithoutCancel(ctx), start); err != nil {
		return err
	}
	a.announce(v)
	return v.run(ctx)
}

// announce says on the output where the hub listens and whom it talks to.
func (a *app) announce(v *server) {
	address := ""
	if v.listener != nil {
		address = v.listener.Addr().String()
	}
	if a.json { // whoever started the hub may have gone
		_ = a.printJSON(map[string]string{"upstream_id": v.db.ID(), "broker": v.hub.Status().URL, "http": address})
		return
	}
	_, _ = fmt.Fprintf(a.stdout, "hub %s, broker %s\n", v.db.ID(), v.hub.Status().URL)
	if address != "" {
		_, _ = fmt.Fprintf(a.stdout, "http listening on %s\n", address)
	}
}

// open makes every part and binds the listener; run starts them. An error
// leaves nothing open.
func (v *server) open(ctx context.Context, start anew) error {
	own, err := openIdentity(ctx, v.settings, start, v.logger)
	if err != nil {
		return err
	}
	v.db = own.db
	conf := v.settings.hubConfig()
	conf.OnCommit = v.gauges.commit
	if v.hub, err = hub.New(conf, v.db, own.sign, v.logger); err != nil {
		return errors.Join(err, v.db.Close())
	}
	if v.settings.HTTP.Address == "" {
		return nil
	}
	v.listener, err = (&net.ListenConfig{}).Listen(ctx, "tcp", v.settings.HTTP.Address)
	if err != nil {
		return errors.Join(fmt.Errorf("--http %s: %w", v.settings.HTTP.Address, err), v.db.Close())
	}
	return nil
}

// errSlowStop: not everything stopped in time. What was acknowledged is durable
// all the same.
var errSlowStop = errors.New("not everything stopped in time")

// run runs the parts until ctx ends or one fails, and closes the database last.
// An orderly stop is nil.
func (v *server) run(ctx context.Context) error {
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return v.hub.Run(running) })
	if v.listener != nil {
		group.Go(func() error { return v.serveHTTP(running) })
	}
	v.logger.Info("hub ready", "upstream_id", v.db.ID(), "broker", v.hub.Status().URL)
	v.notify(daemon.SdNotifyReady)
	stopping := context.AfterFunc(running, func() {
		v.logger.Info("hub stopping")
		v.notify(daemon.SdNotifyStopping)
	})
	defer stopping()
	err := v.await(running, group)
	if errors.Is(err, errSlowStop) {
		return err // closing the database under whoever still uses it would wait for them
	}
	return errors.Join(err, v.db.Close())
}

// await waits for the parts, once they were told to stop for as long as a stop
// may take. The goroutine that it leaves behind when that is too long ends with
// the program.
func (v *server) await(running context.Context, group *errgroup.Group) error {
	ended := make(chan error, 1)
	go func() { ended <- group.Wait() }()
	select {
	case err := <-ended:
		return err
	case <-running.Done():
	}
	limit := time.NewTimer(v.settings.stopWithin())
	defer limit.Stop()
	select {
	case err := <-ended:
		return err
	case <-limit.C:
		return errors.Join(errSlowStop, context.Cause(running))
	}
}

// serveHTTP serves health and metrics until ctx ends.
func (v *server) serveHTTP(ctx context.Context) error {
	keys := &v.settings.HTTP
	http11 := &http.Server{
		Handler:           v.handler(),
		ReadHeaderTimeout: keys.Timeout, ReadTimeout: keys.Timeout, WriteTimeout: keys.Timeout, IdleTimeout: keys.Timeout,
		MaxHeaderBytes: maxHeaderBytes,
		ErrorLog:       slog.NewLogLogger(v.logger.Handler(), slog.LevelDebug),
	}
	var group errgroup.Group
	serving, ended := context.WithCancel(ctx)
	group.Go(func() error {
		<-serving.Done()
		draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), keys.DrainTimeout)
		defer cancel()
		if http11.Shutdown(draining) != nil {
			return http11.Close() // who does not end is cut off
		}
		return nil
	})
	err := http11.Serve(v.listener)
	ended()
	if closeErr := group.Wait(); errors.Is(err, http.ErrServerClosed) {
		return closeErr
	}
	return fmt.Errorf("http: %w", err)
}

func (v *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, nil) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { say(w, v.ready(r.Context())) })
	mux.Handle("GET /metrics", v.gauges.handler(&watched{
		figures: v.hub.Figures,
		status:  v.hub.Status,
		boxes:   func(ctx context.Context) (boxSum, error) { return sumBoxes(ctx, v.db) },
	}, v.logger))
	return mux
}

// ready: the database answers and commits, and the broker takes messages.
func (v *server) ready(ctx context.Context) error {
	if err := v.db.Ping(ctx); err != nil {
		return errors.New("the database does not answer")
	}
	if v.hub.Figures().Failing {
		return errors.New("the database does not commit")
	}
	if v.hub.Status().Broker != edgeclaim.LampUp {
		return errors.New("the broker is not connected")
	}
	return nil
}

// say answers a probe.
func say(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = fmt.Fprintln(w, err) // whoever asked may have gone
		return
	}
	_, _ = fmt.Fprintln(w, "ok")
}

// notify tells systemd, when it started us.
func (v *server) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		v.logger.Warn("systemd was not told", "state", state, "err", err)
	}
}
