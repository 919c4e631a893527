package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

const workload = "spiffe://example.org/ns/a/sa/web"

// An authority of a trust domain, in Go.
type domain struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newDomain() *domain {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs: uris("spiffe://example.org"),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(err)
	certificate, err := x509.ParseCertificate(der)
	check(err)
	return &domain{certificate, key}
}

func uris(texts ...string) []*url.URL {
	all := []*url.URL{}
	for _, text := range texts {
		parsed, err := url.Parse(text)
		check(err)
		all = append(all, parsed)
	}
	return all
}

func (d *domain) svid(change func(*x509.Certificate)) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true, URIs: uris(workload),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if change != nil {
		change(template)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, d.certificate, key.Public(), d.key)
	check(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// What go-spiffe says of an SVID.
func believed(own tls.Certificate, bundle x509bundle.Source) bool {
	_, _, err := x509svid.ParseAndVerify(own.Certificate, bundle)
	return err == nil
}

// The trust domain's bundle endpoint, profile https_web.
type endpoint struct {
	sync.Mutex
	document []byte
}

func (e *endpoint) tell(bundle *spiffebundle.Bundle) {
	document, err := bundle.Marshal()
	check(err)
	e.Lock()
	defer e.Unlock()
	e.document = document
}

func (e *endpoint) ServeHTTP(writer http.ResponseWriter, _ *http.Request) {
	e.Lock()
	defer e.Unlock()
	writer.Header().Set("Content-Type", "application/json")
	_, _ = writer.Write(e.document)
}

func spiffe(s *server) {
	trust := spiffeid.RequireTrustDomainFromString("example.org")
	first, second, stranger := newDomain(), newDomain(), newDomain()
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	bundled := func(sequence uint64, key crypto.PublicKey, authorities ...*x509.Certificate) *spiffebundle.Bundle {
		bundle := spiffebundle.New(trust)
		bundle.SetX509Authorities(authorities)
		check(bundle.AddJWTAuthority("one", key))
		bundle.SetSequenceNumber(sequence)
		bundle.SetRefreshHint(time.Second)
		return bundle
	}
	bundle, told := bundled(1, signer.Public(), first.certificate), &endpoint{}
	told.tell(bundle)
	web, over := httptest.NewUnstartedServer(told), newDomain()
	own := over.svid(func(c *x509.Certificate) { c.URIs, c.IPAddresses = nil, []net.IP{net.IPv4(127, 0, 0, 1)} })
	web.TLS = &tls.Config{Certificates: []tls.Certificate{own}}
	web.StartTLS()
	defer web.Close()
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: over.certificate.Raw})

	s.done("POST", "sys/auth/spiffe", fields{"type": "spiffe"})
	s.done("POST", "auth/spiffe/config", fields{
		"trust_domain": "example.org", "profile": "https_web_bundle", "endpoint_url": web.URL,
		"endpoint_root_ca_truststore_pem": string(ca), "audience": "vault",
	})
	s.done("POST", "auth/spiffe/role/web", fields{"workload_id_patterns": "/ns/*/sa/web"})
	login := func(own *tls.Certificate, token string) int {
		body := fields{"role": "web"}
		if token != "" {
			body["jwt"] = token
		}
		status, _, _ := s.ask("POST", "auth/spiffe/login", "", own, body)
		return status
	}
	enters := func(own tls.Certificate) bool { return login(&own, "") == 200 }

	// of each of these go-spiffe and the server say the same
	for what, own := range map[string]tls.Certificate{
		"good":              first.svid(nil),
		"two URIs":          first.svid(func(c *x509.Certificate) { c.URIs = uris(workload, "spiffe://example.org/ns/b/sa/web") }),
		"no URI":            first.svid(func(c *x509.Certificate) { c.URIs = nil }),
		"no SPIFFE ID":      first.svid(func(c *x509.Certificate) { c.URIs = uris("https://example.org/ns/a/sa/web") }),
		"an authority":      first.svid(func(c *x509.Certificate) { c.IsCA = true }),
		"signs others":      first.svid(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }),
		"signs lists":       first.svid(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }),
		"over":              first.svid(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }),
		"to come":           first.svid(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }),
		"elsewhere":         first.svid(func(c *x509.Certificate) { c.URIs = uris("spiffe://example.com/ns/a/sa/web") }),
		"another authority": stranger.svid(nil),
		"not yet known":     second.svid(nil),
	} {
		theirs, ours := believed(own, bundle), enters(own)
		wants(theirs == ours && ours == (what == "good"), "%s: go-spiffe %v, the server %v", what, theirs, ours)
	}
	other := first.svid(func(c *x509.Certificate) { c.URIs = uris("spiffe://example.org/ns/a/sa/db") })
	wants(believed(other, bundle) && !enters(other), "another workload of the domain is none of the role's")

	jwts(signer, bundle, login)

	// what the server itself issues is an SVID to go-spiffe
	s.done("POST", "sys/mounts/svids", fields{"type": "pki"})
	s.done("POST", "svids/root/generate/internal", fields{"common_name": "SVIDs", "key_type": "ec", "uri_sans": "spiffe://example.org"})
	s.done("POST", "svids/roles/web", fields{"allowed_uri_sans": "spiffe://example.org/*", "key_type": "ec", "require_cn": false})
	issued := pair(s.done("POST", "svids/issue/web", fields{"uri_sans": workload, "ttl": "1h"}))
	issued.Certificate = issued.Certificate[:1]
	authority, err := x509.ParseCertificate(s.raw("svids/ca"))
	check(err)
	wants(believed(issued, x509bundle.FromX509Authorities(trust, []*x509.Certificate{authority})), "go-spiffe takes what the server issues")
	wants(!enters(issued), "which is not of the bundle")

	// an authority is exchanged, and an older bundle told again: the server finds the one and leaves the other
	told.tell(bundled(2, signer.Public(), second.certificate, authority))
	until("the new authority counts", func() bool { return enters(second.svid(nil)) })
	wants(enters(issued), "and the server's own")
	wants(!enters(first.svid(nil)), "the old one does not")
	told.tell(bundle)
	time.Sleep(20 * time.Second)
	wants(enters(second.svid(nil)) && !enters(first.svid(nil)), "an older bundle is left where it is")
}

func jwts(signer *ecdsa.PrivateKey, bundle *spiffebundle.Bundle, login func(*tls.Certificate, string) int) {
	stranger, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	token := func(key *ecdsa.PrivateKey, id string, change func(*jwt.Claims)) string {
		made, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: id}}, (&jose.SignerOptions{}).WithType("JWT"))
		check(err)
		claims := jwt.Claims{Subject: workload, Audience: jwt.Audience{"vault"}, Expiry: jwt.NewNumericDate(time.Now().Add(time.Minute)), IssuedAt: jwt.NewNumericDate(time.Now())}
		change(&claims)
		text, err := jwt.Signed(made).Claims(claims).Serialize()
		check(err)
		return text
	}
	for what, text := range map[string]string{
		"good":             token(signer, "one", func(*jwt.Claims) {}),
		"another audience": token(signer, "one", func(c *jwt.Claims) { c.Audience = jwt.Audience{"other"} }),
		"no audience":      token(signer, "one", func(c *jwt.Claims) { c.Audience = nil }),
		"over":             token(signer, "one", func(c *jwt.Claims) { c.Expiry = jwt.NewNumericDate(time.Now().Add(-5 * time.Minute)) }),
		"without end":      token(signer, "one", func(c *jwt.Claims) { c.Expiry = nil }),
		"no SPIFFE ID":     token(signer, "one", func(c *jwt.Claims) { c.Subject = "web" }),
		"elsewhere":        token(signer, "one", func(c *jwt.Claims) { c.Subject = "spiffe://example.com/ns/a/sa/web" }),
		"another key":      token(stranger, "one", func(*jwt.Claims) {}),
		"an unknown key":   token(signer, "two", func(*jwt.Claims) {}),
	} {
		_, err := jwtsvid.ParseAndValidate(text, bundle, []string{"vault"})
		ours := login(nil, text) == 200
		wants((err == nil) == ours && ours == (what == "good"), "JWT, %s: go-spiffe %v, the server %v", what, err, ours)
	}
}

func until(what string, isSo func() bool) {
	for began := time.Now(); !isSo(); time.Sleep(time.Second) {
		if time.Since(began) > time.Minute {
			fail("%s: not within a minute", what)
		}
	}
	checks++
}
