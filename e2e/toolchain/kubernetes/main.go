// Command kubernetes is every server of a cluster in one executable: the first argument names the server, the rest are its own flags.
// One file links the shared libraries once, so that it is built and stored in a third of what six executables cost.
package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

// etcd brings its own command line; all others are cobra commands.
const etcd = "etcd"

var servers = map[string]func() *cobra.Command{
	"apiserver":          apiserver.NewAPIServerCommand,
	"controller-manager": controllers.NewControllerManagerCommand,
	"kubelet":            func() *cobra.Command { return kubelet.NewKubeletCommand(context.Background()) },
	"proxy":              proxy.NewProxyCommand,
	"scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
}

func main() {
	if len(os.Args) < 2 {
		refuse("no server named")
	}
	name := os.Args[1]
	// The servers read os.Args themselves and show its first word in their logs.
	os.Args = append([]string{"kube-" + name}, os.Args[2:]...)
	if name == etcd {
		etcdmain.Main(os.Args)
		return
	}
	newCommand, known := servers[name]
	if !known {
		refuse(fmt.Sprintf("no server is called %q", name))
	}
	os.Exit(cli.Run(newCommand()))
}

func refuse(reason string) {
	names := []string{etcd}
	for name := range servers {
		names = append(names, name)
	}
	slices.Sort(names)
	fmt.Fprintf(os.Stderr, "kubernetes: %s; wanted one of %s\n", reason, strings.Join(names, ", "))
	os.Exit(2)
}
