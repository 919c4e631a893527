// OpenBao's API module, unmodified, against a development server: address, CA, file with the root token.
// The command lines, Agent and Terraform's provider stand on it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/openbao/openbao/api/v2"
)

var checks int

func check(holds bool, what any) {
	checks++
	if !holds {
		fmt.Fprintf(os.Stderr, "check %d failed: %v\n", checks, what)
		os.Exit(1)
	}
}

func must[T any](value T, err error) T {
	check(err == nil, err)
	return value
}

func refused(status int, err error) {
	var found *api.ResponseError
	check(errors.As(err, &found) && found.StatusCode == status, err)
}

func client(token string) *api.Client {
	config := api.DefaultConfig()
	config.Address = os.Args[1]
	config.MaxRetries = 0
	check(config.ConfigureTLS(&api.TLSConfig{CACert: os.Args[2]}) == nil, "TLS")
	made := must(api.NewClient(config))
	made.SetToken(token)
	return made
}

func main() {
	ctx := context.Background()
	root := client(strings.TrimSpace(string(must(os.ReadFile(os.Args[3])))))

	check(!must(root.Sys().SealStatus()).Sealed, "seal status")
	check(must(root.Sys().Health()).Initialized, "health")
	check(must(root.Sys().Leader()) != nil, "leader")
	check(must(root.Sys().ListMounts())["secret/"].Options["version"] == "2", "mounts")
	check(must(root.Sys().ListAuth())["token/"].Type == "token", "auth methods")

	kv := root.KVv2("secret")
	must(kv.Put(ctx, "go/db", map[string]interface{}{"pw": "one", "user": "me"}))
	must(kv.Put(ctx, "go/db", map[string]interface{}{"pw": "two", "user": "me"}, api.WithCheckAndSet(1)))
	check(must(kv.Get(ctx, "go/db")).Data["pw"] == "two", "get")
	check(must(kv.GetVersion(ctx, "go/db", 1)).Data["pw"] == "one", "version")
	must(kv.Patch(ctx, "go/db", map[string]interface{}{"pw": "three"}))
	check(must(kv.Get(ctx, "go/db")).Data["user"] == "me", "patched")
	check(len(must(kv.GetVersionsAsList(ctx, "go/db"))) == 3, "versions")
	must(kv.Rollback(ctx, "go/db", 1))
	check(must(kv.Get(ctx, "go/db")).Data["pw"] == "one", "rolled back")
	check(kv.Delete(ctx, "go/db") == nil, "delete")
	check(must(kv.Get(ctx, "go/db")).Data == nil, "deleted")
	check(kv.Undelete(ctx, "go/db", []int{4}) == nil, "undelete")
	check(kv.Destroy(ctx, "go/db", []int{1}) == nil, "destroy")
	check(must(kv.GetMetadata(ctx, "go/db")).Versions["1"].Destroyed, "destroyed")
	listed := must(root.Logical().List("secret/metadata/go"))
	check(fmt.Sprint(listed.Data["keys"]) == "[db]", listed.Data)

	check(root.Sys().PutPolicy("go", `path "secret/data/go/*" { capabilities = ["read"] }`) == nil, "policy")
	check(strings.Contains(must(root.Sys().GetPolicy("go")), "secret/data/go/*"), "policy read")
	made := must(root.Auth().Token().Create(&api.TokenCreateRequest{Policies: []string{"go"}, TTL: "1h"}))
	user := client(made.Auth.ClientToken)
	self := must(user.Auth().Token().LookupSelf())
	ttl := must(self.TokenTTL())
	check(ttl > 59*time.Minute && ttl <= time.Hour, ttl)
	check(must(user.Auth().Token().RenewSelf(60)).Auth.LeaseDuration <= 3600, "renewed")
	check(must(user.KVv2("secret").Get(ctx, "go/db")).Data["pw"] == "one", "with it")
	_, err := user.KVv2("secret").Put(ctx, "go/db", map[string]interface{}{})
	refused(403, err)
	check(fmt.Sprint(must(user.Sys().CapabilitiesSelf("secret/data/go/db"))) == "[read]", "capabilities")

	check(root.Sys().EnableAuthWithOptions("approle-go", &api.EnableAuthOptions{Type: "approle"}) == nil, "approle")
	must(root.Logical().Write("auth/approle-go/role/web", map[string]interface{}{"token_policies": "go"}))
	role := must(root.Logical().Read("auth/approle-go/role/web/role-id"))
	wrapping := client(root.Token())
	wrapping.SetWrappingLookupFunc(func(_, _ string) string { return "60s" })
	wrapped := must(wrapping.Logical().Write("auth/approle-go/role/web/secret-id", nil))
	check(wrapped.WrapInfo.CreationPath == "auth/approle-go/role/web/secret-id", wrapped.WrapInfo)
	nobody := client("")
	secret := must(nobody.Logical().Unwrap(wrapped.WrapInfo.Token))
	_, err = client("").Logical().Unwrap(wrapped.WrapInfo.Token)
	refused(400, err)
	login := must(client("").Logical().Write("auth/approle-go/login", map[string]interface{}{
		"role_id": role.Data["role_id"], "secret_id": secret.Data["secret_id"],
	}))
	app := client(login.Auth.ClientToken)
	check(must(app.KVv2("secret").Get(ctx, "go/db")).Data["pw"] == "one", "application")
	check(app.Auth().Token().RevokeSelf("") == nil, "revoked")
	_, err = app.KVv2("secret").Get(ctx, "go/db")
	refused(403, err)
	check(root.Sys().Unmount("secret-none") == nil, "unmounting nothing")
	fmt.Printf("openbao api: %d checks done\n", checks)
}
