// A real kube-apiserver with a real etcd inside it, for tests on loopback.
//
//	kube-apiserver serve FLAGS…   the API server as it is released; its etcd listens on ./etcd.sock and keeps ./etcd.
//	                              It ends when its standard input does, so that it never outlives its test.
//	kube-apiserver stored KEY     the bytes that the running etcd keeps under KEY, as they are, to standard output.
//
// Both take the current folder for the test's own.
package main

import (
	"context"
	"fmt"
	"io"
	"net/url"
	"os"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubernetes/cmd/kube-apiserver/app"
)

const (
	clients = "unix://etcd.sock:0"
	peers   = "unix://peer.sock:0"
)

func main() {
	if len(os.Args) < 2 {
		fail(fmt.Errorf("usage: kube-apiserver serve FLAGS… | stored KEY"))
	}
	switch os.Args[1] {
	case "serve":
		serve(os.Args[2:])
	case "stored":
		if len(os.Args) != 3 {
			fail(fmt.Errorf("usage: kube-apiserver stored KEY"))
		}
		stored(os.Args[2])
	default:
		fail(fmt.Errorf("no such command: %s", os.Args[1]))
	}
}

func serve(flags []string) {
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	etcd, err := embed.StartEtcd(config())
	if err != nil {
		fail(err)
	}
	select {
	case <-etcd.Server.ReadyNotify():
	case err := <-etcd.Err():
		fail(err)
	case <-time.After(time.Minute):
		fail(fmt.Errorf("etcd is not ready after a minute"))
	}
	command := app.NewAPIServerCommand()
	command.SetArgs(append(flags, "--etcd-servers="+clients))
	os.Exit(cli.Run(command))
}

func config() *embed.Config {
	config := embed.NewConfig()
	config.Dir = "etcd"
	config.LogLevel = "error"
	config.UnsafeNoFsync = true
	config.ListenClientUrls, config.AdvertiseClientUrls = address(clients), address(clients)
	config.ListenPeerUrls, config.AdvertisePeerUrls = address(peers), address(peers)
	config.InitialCluster = "default=" + peers
	return config
}

func address(raw string) []url.URL {
	parsed, err := url.Parse(raw)
	if err != nil {
		fail(err)
	}
	return []url.URL{*parsed}
}

func stored(key string) {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{clients}, DialTimeout: 10 * time.Second})
	if err != nil {
		fail(err)
	}
	within, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	answer, err := client.Get(within, key)
	if err != nil {
		fail(err)
	}
	if len(answer.Kvs) != 1 {
		fail(fmt.Errorf("etcd has no %s", key))
	}
	if _, err := os.Stdout.Write(answer.Kvs[0].Value); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "kube-apiserver:", err)
	os.Exit(1)
}
