package redisurl

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strconv"
)

// TLS is how the server is known, and we by it.
type TLS struct {
	CA          *x509.CertPool    // who may have signed its certificate; nil: whom the system trusts
	Certificate []tls.Certificate // that we show; none or one
	ServerName  string            // that its certificate must be for; "" for the host that is dialled
	Unverified  bool              // any certificate will do: whoever is between reads and changes all
}

var tlsOptions = []string{"ca", "cert", "key", "server_name", "skip_verify"}

func (o options) takeTLS() (*TLS, error) {
	t := &TLS{ServerName: o.take("server_name")}
	if text := o.take("skip_verify"); text != "" {
		var err error
		if t.Unverified, err = strconv.ParseBool(text); err != nil {
			return nil, errors.New("skip_verify must be true or false")
		}
	}
	if file := o.take("ca"); file != "" {
		if t.Unverified {
			return nil, errors.New("ca is given, and skip_verify, with which it counts for nothing: leave one of them out")
		}
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("ca: %w", err)
		}
		t.CA = x509.NewCertPool()
		if !t.CA.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("ca: %s has no certificate in PEM", file)
		}
	}
	cert, key := o.take("cert"), o.take("key")
	if (cert == "") != (key == "") {
		return nil, errors.New("cert and key belong together: the certificate that is shown to Redis, and its key")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return nil, fmt.Errorf("cert and key: %w", err)
		}
		t.Certificate = []tls.Certificate{pair}
	}
	return t, nil
}

// Config is for a connection; nil without TLS.
func (t *TLS) Config() *tls.Config {
	if t == nil {
		return nil
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, RootCAs: t.CA, Certificates: t.Certificate, ServerName: t.ServerName,
		InsecureSkipVerify: t.Unverified, // only where the URL says so, and then it is logged
	}
}
