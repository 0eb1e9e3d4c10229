package broker_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coatcheck/coatcheck/internal/broker"
	"github.com/coatcheck/coatcheck/internal/redistest"
)

// Each kind of URL that serve and worker take leads to a Redis that works, and
// a password that is wrong is said without the password.
func TestURLs(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "redis.sock")
	certificate, key := selfSigned(t, dir)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	secure := l.Addr().String()
	_, port, _ := net.SplitHostPort(secure)
	l.Close()
	redis := redistest.Start(t, "--unixsocket", socket, "--tls-port", port,
		"--tls-cert-file", certificate, "--tls-key-file", key, "--tls-auth-clients", "no",
		"--user", "gateway", "on", ">s3cret", "~*", "&*", "+@all",
		"--user", "least", "on", ">s3cret", "~cc:*", "&cc:*", "+@all", "-@dangerous", "+info", "+config|get",
		"--user", "less", "on", ">s3cret", "~cc:*", "&cc:*", "+@all", "-@dangerous")
	node := redistest.StartCluster(t, 3, 0).Nodes[0].URL
	mutual := redistest.FreeAddr(t)
	_, port, _ = net.SplitHostPort(mutual)
	redistest.Start(t, "--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificate)
	plain := strings.TrimPrefix(redis.URL, "redis://")
	tests := map[string]string{
		"tcp":         redis.URL,
		"user, least": "redis://least:s3cret@" + plain,
		"user, db":    "redis://gateway:s3cret@" + plain + "/1",
		"unix socket": "unix://" + socket,
		"unix, user":  "unix://gateway:s3cret@" + socket + "?db=2",
		"tls":         "rediss://" + secure + "?ca=" + certificate,
		"tls, any":    "rediss://" + secure + "?skip_verify=true",
		"mutual tls":  "rediss://" + mutual + "?ca=" + certificate + "&cert=" + certificate + "&key=" + key,
	}
	for name, url := range tests {
		t.Run(name, func(t *testing.T) {
			b := open(t, &redistest.Redis{URL: url})
			r := submit(t, b, "body")
			d := claim(t, b)
			send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("done")})
			settle(t, b)
			if got := status(t, b, r.ID); got.Status != broker.Succeeded {
				t.Errorf("%s", got.Status)
			}
		})
	}
	for name, test := range map[string]struct {
		url, says string
		wait      bool // it may come yet
	}{
		"wrong password":    {"redis://gateway:wr0ng@" + plain, "refuses the user or password", false},
		"unknown authority": {"rediss://" + secure, "unknown authority", false},
		"no such scheme":    {"http://user:wr0ng@" + plain, "must begin with redis://", false},
		"no such database":  {redis.URL + "/99", "no database of the number", false},
		"no cluster":        {"redis+cluster://" + plain, "redis:// in the place of", false},
		"a cluster":         {node, "redis+cluster:// in the place of", false},
		"no Sentinel":       {"redis+sentinel://" + plain + "/mymaster", "no Sentinels", false},
		"may do too little": {"redis://less:s3cret@" + plain, "~cc:* &cc:* +@all -@dangerous +info +config|get", false},
		"TLS where none is": {"rediss://user:wr0ng@" + plain, "redis in the place of rediss", false},
		"none where TLS is": {"redis://user:wr0ng@" + secure, "rediss in the place of redis", false},
		"none where mutual": {"redis://user:wr0ng@" + mutual, "rediss in the place of redis", false},
		"nobody there":      {"redis://user:wr0ng@127.0.0.1:1", "can't be reached", true},
	} {
		t.Run(name, func(t *testing.T) {
			begun := time.Now()
			b, err := broker.Open(t.Context(), broker.Options{URL: test.url, Logger: slog.New(slog.DiscardHandler)})
			if err == nil {
				b.Close()
				t.Fatal("opened")
			}
			if strings.Contains(err.Error(), "wr0ng") || !strings.Contains(err.Error(), test.says) || errors.Is(err, broker.ErrUnavailable) != test.wait {
				t.Error(err)
			}
			if took := time.Since(begun); took > 5*time.Second {
				t.Errorf("said after %v", took)
			}
		})
	}
}

// A cluster that speaks TLS alone takes a request through its life in every partition:
// each master is found, and reached, by TLS.
func TestTLSCluster(t *testing.T) {
	t.Parallel()
	certificate, key := selfSigned(t, t.TempDir())
	cluster := redistest.StartTLSCluster(t, 3, certificate, key)
	b := open(t, &redistest.Redis{URL: cluster.URL + "?ca=" + certificate}, func(o *broker.Options) { o.Partitions = 6 })
	const most = 100 // until each partition had one
	done := map[int]bool{}
	for range most {
		r := submit(t, b, "body")
		d := claim(t, b)
		send(t, b, d, broker.WorkerReply{Type: "final", Body: []byte("done")})
		settle(t, b)
		if got := status(t, b, r.ID); got.Status != broker.Succeeded {
			t.Fatalf("%s", got.Status)
		}
		if done[r.ID.Partition()] = true; len(done) == b.Partitions() {
			return
		}
	}
	t.Errorf("%d requests went to partitions %v only", most, done)
}

// A Redis that wants a certificate says so, where it does not hang up before it is heard.
func TestRedisWantsACertificate(t *testing.T) {
	dir := t.TempDir()
	certificate, key := selfSigned(t, dir)
	secure := redistest.FreeAddr(t)
	_, port, _ := net.SplitHostPort(secure)
	redistest.Start(t, "--tls-port", port, "--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificate)
	soon(t, "it says what it wants", func() error {
		b, err := broker.Open(t.Context(), broker.Options{URL: "rediss://" + secure + "?ca=" + certificate, Logger: slog.New(slog.DiscardHandler)})
		if err == nil {
			b.Close()
			t.Fatal("opened")
		}
		if strings.Contains(err.Error(), "wants a certificate") {
			return nil
		}
		return err
	})
}

// selfSigned makes a certificate for the loopback address.
func selfSigned(t *testing.T, dir string) (certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "redis"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	signed, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key = filepath.Join(dir, "redis.crt"), filepath.Join(dir, "redis.key")
	for file, block := range map[string]*pem.Block{
		certificate: {Type: "CERTIFICATE", Bytes: signed},
		key:         {Type: "PRIVATE KEY", Bytes: encoded},
	} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certificate, key
}
