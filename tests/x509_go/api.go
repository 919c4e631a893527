package main

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
)

// A server of ours, asked as anybody asks it.
type server struct {
	url   string
	roots *x509.CertPool
	token string
}

func dial(url, ca, tokenFile string) *server {
	bundle, err := os.ReadFile(ca)
	check(err)
	token, err := os.ReadFile(tokenFile)
	check(err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	return &server{url, roots, strings.TrimSpace(string(token))}
}

type fields = map[string]any

// ask sends a request over a connection of its own, beside a client certificate if there is one.
func (s *server) ask(method, path, token string, own *tls.Certificate, body any) (int, fields, []byte) {
	config := &tls.Config{RootCAs: s.roots}
	if own != nil {
		config.Certificates = []tls.Certificate{*own}
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
	text, err := json.Marshal(body)
	check(err)
	request, err := http.NewRequest(method, s.url+"/v1/"+path, bytes.NewReader(text))
	check(err)
	if token != "" {
		request.Header.Set("X-Vault-Token", token)
	}
	response, err := client.Do(request)
	check(err)
	defer response.Body.Close()
	raw, err := io.ReadAll(response.Body)
	check(err)
	answer := fields{}
	_ = json.Unmarshal(raw, &answer)
	return response.StatusCode, answer, raw
}

// done asks as root, and it must succeed.
func (s *server) done(method, path string, body any) fields {
	status, answer, raw := s.ask(method, path, s.token, nil, body)
	if status >= 300 {
		fail("%s %s: %d %s", method, path, status, raw)
	}
	data, _ := answer["data"].(map[string]any)
	return data
}

// raw is what anybody reads.
func (s *server) raw(path string) []byte {
	status, _, raw := s.ask("GET", path, "", nil, nil)
	if status != 200 {
		fail("%s: %d %s", path, status, raw)
	}
	return raw
}

func parse(text any) *x509.Certificate {
	block, _ := pem.Decode([]byte(text.(string)))
	if block == nil {
		fail("no PEM: %v", text)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	check(err)
	return certificate
}

// pair is what an issue answers, as TLS takes it.
func pair(issued fields) tls.Certificate {
	own, err := tls.X509KeyPair([]byte(issued["certificate"].(string)), []byte(issued["private_key"].(string)))
	check(err)
	chain, _ := issued["ca_chain"].([]any)
	for _, above := range chain {
		block, _ := pem.Decode([]byte(above.(string)))
		own.Certificate = append(own.Certificate, block.Bytes)
	}
	return own
}

var checks int

func wants(so bool, what string, args ...any) {
	checks++
	if !so {
		fail(what, args...)
	}
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func fail(what string, args ...any) {
	panic(fmt.Sprintf(what, args...))
}

func main() {
	s := dial(os.Args[2], os.Args[3], os.Args[4])
	switch os.Args[1] {
	case "pki":
		pki(s, os.Args[5])
	case "spiffe":
		spiffe(s)
	}
	fmt.Printf("go: %d checks done\n", checks)
}
