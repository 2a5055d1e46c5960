// Command pause holds the namespaces of a pod open and ends at the first signal that asks for it.
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	// With SIGCHLD ignored the kernel reaps orphans of a shared process namespace by itself.
	signal.Ignore(syscall.SIGCHLD)
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	<-ended
}
