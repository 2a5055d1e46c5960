//go:build tools

// Package tools holds no code: its imports keep the node's container runtime and what it needs in go.mod, so that
// `go build` of these three commands takes exactly the versions that go.sum lists.
package tools

import (
	_ "github.com/containerd/containerd/v2/cmd/containerd"
	_ "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2"
	_ "github.com/containerd/containerd/v2/cmd/ctr"
)
