package client

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"edgeclaim"
)

// maxCAFile bounds what is read of a CA file, in bytes: several times all the
// roots of a browser.
const maxCAFile = 4 << 20

// tlsConfig reads the files of c; nil when the target is not mqtts.
func (c *Config) tlsConfig(t target) (*tls.Config, error) {
	if !t.secure {
		return nil, nil //nolint:nilnil // no TLS is an answer, not a failure
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName, Time: c.Now}
	if conf.ServerName == "" {
		conf.ServerName = t.host
	}
	if c.CAFile != "" {
		pem, err := readFile(c.CAFile, maxCAFile)
		if err != nil {
			return nil, fmt.Errorf("ca_file: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, errors.New("ca_file: no certificate in it")
		}
	}
	if c.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("cert_file and key_file: %w", err)
		}
		conf.Certificates = []tls.Certificate{pair}
	}
	return conf, nil
}

// login returns the user name and password; both empty for none.
func (c *Config) login(t target) (string, edgeclaim.Secret, error) {
	if t.hasUser {
		return t.username, t.password, nil
	}
	if c.PasswordFile == "" {
		return c.Username, edgeclaim.Secret{}, nil
	}
	text, err := readFile(c.PasswordFile, maxPasswordFile)
	if err != nil {
		return "", edgeclaim.Secret{}, fmt.Errorf("password_file: %w", err)
	}
	password := strings.TrimSuffix(strings.TrimSuffix(string(text), "\n"), "\r")
	return c.Username, edgeclaim.NewSecret(password), nil
}

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: more than %d bytes", path, limit)
	}
	return data, nil
}
