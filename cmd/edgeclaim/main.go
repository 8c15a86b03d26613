// Command edgeclaim is the provisioning box of a production line: devices claim
// their identity from it over MQTT and HTTP, with or without a network behind
// it. The same binary is the operator's command line.
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
