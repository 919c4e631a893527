package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Chains, constraints, lists and keys of authorities in the server, as Go's own library sees them.
func pki(s *server, dir string) {
	write := func(name, text string) {
		check(os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	long := fields{"type": "pki", "config": fields{"max_lease_ttl": "87600h"}}
	s.done("POST", "sys/mounts/root", long)
	s.done("POST", "sys/mounts/sub", long)
	root := s.done("POST", "root/root/generate/internal", fields{"common_name": "Root", "key_type": "rsa", "ttl": "87600h"})
	request := s.done("POST", "sub/intermediate/generate/internal", fields{"common_name": "Sub", "key_type": "ec"})
	signed := s.done("POST", "root/root/sign-intermediate", fields{
		"csr": request["csr"], "common_name": "Sub", "ttl": "8760h", "max_path_length": 0,
		"permitted_dns_domains": "example.com", "excluded_dns_domains": "secret.example.com",
	})
	bundle := signed["certificate"].(string) + "\n" + root["certificate"].(string)
	s.done("POST", "sub/intermediate/set-signed", fields{"certificate": bundle})
	authority, above := parse(root["certificate"]), parse(signed["certificate"])
	wants(authority.IsCA && above.IsCA && above.MaxPathLenZero, "authorities are authorities")
	wants(authority.KeyUsage == x509.KeyUsageCertSign|x509.KeyUsageCRLSign, "and sign certificates and lists")
	check(above.CheckSignatureFrom(authority))
	check(authority.CheckSignatureFrom(authority))
	wants(string(above.AuthorityKeyId) == string(authority.SubjectKeyId), "key ids lead upwards")

	s.done("POST", "sub/config/urls", fields{"crl_distribution_points": "http://pki.example/crl", "issuing_certificates": "http://pki.example/ca"})
	s.done("POST", "sub/roles/any", fields{"allow_any_name": true, "key_type": "ec", "max_ttl": "72h", "allowed_uri_sans": "spiffe://example.com/*"})
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(authority)
	between.AddCert(above)
	verify := func(leaf *x509.Certificate, name string, usage x509.ExtKeyUsage) error {
		_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, DNSName: name, KeyUsages: []x509.ExtKeyUsage{usage}})
		return err
	}
	issued := map[string]fields{}
	for _, name := range []string{"web.example.com", "revoked.example.com", "evil.test", "a.secret.example.com"} {
		issued[name] = s.done("POST", "sub/issue/any", fields{"common_name": name, "ip_sans": "127.0.0.1", "ttl": "1h"})
		write(name+".pem", issued[name]["certificate"].(string)+"\n")
		write(name+".key", issued[name]["private_key"].(string)+"\n")
	}
	leaf := parse(issued["web.example.com"]["certificate"])
	check(verify(leaf, "web.example.com", x509.ExtKeyUsageServerAuth))
	check(verify(leaf, "web.example.com", x509.ExtKeyUsageClientAuth))
	wants(verify(leaf, "other.example.com", x509.ExtKeyUsageServerAuth) != nil, "another name is another's")
	wants(verify(leaf, "web.example.com", x509.ExtKeyUsageCodeSigning) != nil, "another usage is none")
	wants(len(leaf.CRLDistributionPoints) == 1 && len(leaf.IssuingCertificateURL) == 1, "URLs stand in it")
	wants(leaf.SerialNumber.Sign() > 0 && leaf.SerialNumber.BitLen() > 128 && leaf.SerialNumber.BitLen() < 160, "its number is random")
	wants(!leaf.IsCA && leaf.Version == 3, "it is a leaf")
	for _, name := range []string{"evil.test", "a.secret.example.com"} {
		err := verify(parse(issued[name]["certificate"]), name, x509.ExtKeyUsageServerAuth)
		wants(err != nil && strings.Contains(err.Error(), "constraint"), "%s: %v", name, err)
	}

	list := func(mount string, by *x509.Certificate) *x509.RevocationList {
		found, err := x509.ParseRevocationList(s.raw(mount + "/crl"))
		check(err)
		check(found.CheckSignatureFrom(by))
		wants(found.NextUpdate.Sub(found.ThisUpdate) == 72*time.Hour, "it says how long it counts")
		return found
	}
	before := list("sub", above)
	wants(len(before.RevokedCertificateEntries) == 0, "nothing is revoked")
	s.done("POST", "sub/revoke", fields{"serial_number": issued["revoked.example.com"]["serial_number"]})
	after := list("sub", above)
	entries := after.RevokedCertificateEntries
	wants(len(entries) == 1 && entries[0].SerialNumber.Cmp(parse(issued["revoked.example.com"]["certificate"]).SerialNumber) == 0, "it is on the list")
	wants(after.Number.Cmp(before.Number) > 0, "lists are numbered upwards")
	list("root", authority)
	write("root.pem", root["certificate"].(string)+"\n")
	write("sub.pem", signed["certificate"].(string)+"\n")
	write("lists.pem", string(s.raw("sub/crl/pem"))+"\n"+string(s.raw("root/crl/pem"))+"\n")

	requests(s, above)
	handshake(pair(issued["web.example.com"]), roots)
	logins(s, root["certificate"].(string), pair(issued["web.example.com"]))
}

// Keys that Go makes, certified by request.
func requests(s *server, above *x509.Certificate) {
	s.done("POST", "sub/roles/csr", fields{"allow_any_name": true, "key_type": "any", "max_ttl": "72h"})
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	check(err)
	p521, err := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	check(err)
	_, edwards, err := ed25519.GenerateKey(rand.Reader)
	check(err)
	large, err := rsa.GenerateKey(rand.Reader, 2048)
	check(err)
	small, err := rsa.GenerateKey(rand.Reader, 1024)
	check(err)
	ask := func(key crypto.Signer, spoil bool) (int, fields) {
		names := []string{"csr.example.com", "second.example.com"}
		template := &x509.CertificateRequest{Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}
		der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
		check(err)
		if spoil {
			der[len(der)-3] ^= 1
		}
		text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		status, answer, _ := s.ask("POST", "sub/sign/csr", s.token, nil, fields{"csr": string(text), "ttl": "1h"})
		data, _ := answer["data"].(map[string]any)
		return status, data
	}
	for _, key := range []crypto.Signer{p256, p384, edwards, large} {
		status, data := ask(key, false)
		wants(status == 200, "%T is certified: %d", key, status)
		leaf := parse(data["certificate"])
		check(leaf.CheckSignatureFrom(above))
		public := key.Public().(interface{ Equal(crypto.PublicKey) bool })
		wants(public.Equal(leaf.PublicKey) && len(leaf.DNSNames) == 2 && len(leaf.IPAddresses) == 1, "%T is its own", key)
		status, _ = ask(key, true)
		wants(status == 400, "%T with another signature is refused", key)
	}
	for _, key := range []crypto.Signer{small, p521} {
		status, _ := ask(key, false)
		wants(status == 400, "%T of this size is refused", key)
	}
}

// Both ends of a connection show what was issued.
func handshake(own tls.Certificate, roots *x509.CertPool) {
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		Certificates: []tls.Certificate{own}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots,
	})
	check(err)
	defer listener.Close()
	served := make(chan error, 1)
	go func() {
		connection, err := listener.Accept()
		if err == nil {
			err = connection.(*tls.Conn).Handshake()
		}
		served <- err
	}()
	client, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{
		Certificates: []tls.Certificate{own}, RootCAs: roots, ServerName: "web.example.com",
	})
	check(err)
	check(<-served)
	wants(client.ConnectionState().HandshakeComplete, "both ends are who they say")
	check(client.Close())
}

// A login by what was issued, and by what others made.
func logins(s *server, root string, own tls.Certificate) {
	s.done("POST", "sys/auth/cert", fields{"type": "cert"})
	s.done("POST", "auth/cert/certs/web", fields{"certificate": root, "allowed_dns_sans": "*.example.com", "token_ttl": "10m"})
	status, answer, raw := s.ask("POST", "auth/cert/login", "", &own, fields{"name": "web"})
	wants(status == 200, "its holder logs in: %d %s", status, raw)
	token := answer["auth"].(map[string]any)["client_token"].(string)
	other := selfSigned()
	for _, one := range []struct {
		shown  *tls.Certificate
		status int
	}{{&own, 200}, {&other, 403}, {nil, 403}} {
		for _, path := range []string{"auth/token/lookup-self", "auth/token/renew-self"} {
			method := map[bool]string{true: "GET", false: "POST"}[strings.HasPrefix(path, "auth/token/lookup")]
			status, _, raw := s.ask(method, path, token, one.shown, fields{})
			wants(status == one.status, "%s: %d %s", path, status, raw)
		}
	}
	for _, shown := range []*tls.Certificate{nil, &other} {
		status, _, _ := s.ask("POST", "auth/cert/login", "", shown, fields{"name": "web"})
		wants(status == 400, "nobody else logs in: %d", status)
	}
	// a certificate that nobody vouches for is good for nothing without a token
	for _, shown := range []*tls.Certificate{&own, &other} {
		status, _, _ := s.ask("GET", "sys/mounts", "", shown, nil)
		wants(status == 403, "a certificate alone is nobody: %d", status)
	}
	s.done("POST", "sub/revoke", fields{"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: own.Certificate[0]}))})
	s.done("POST", "auth/cert/crls/sub", fields{"crl": string(s.raw("sub/crl/pem"))})
	status, _, _ = s.ask("POST", "auth/cert/login", "", &own, fields{"name": "web"})
	wants(status == 400, "who is revoked stays out: %d", status)
}

func selfSigned() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: fmt.Sprint("web")}, DNSNames: []string{"web.example.com"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
