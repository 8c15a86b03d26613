// Command edgehub is the application upstream of edgeclaim boxes: it takes what
// they tell through an MQTT broker, commits it to SQL and says so. The same
// binary asks that database.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	os.Exit(signalled())
}

// signalled runs the program until it ends or is told to. The second signal
// ends it at once: only the first is caught.
func signalled() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	release := context.AfterFunc(ctx, stop)
	defer release()
	return run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
}
