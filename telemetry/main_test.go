package telemetry_test

import (
	"flag"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	_ = flag.Set("rapid.nofailfile", "true")
	goleak.VerifyTestMain(m)
}
