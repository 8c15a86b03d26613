package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// The files, all in one folder. Each is whole by itself and replaced at one
// stroke, a key together with its certificate, so that no crash leaves a pair
// that does not fit.
const (
	folder      = "ca"
	issuerFile  = "issuer.pem"  // the issuing key, then its chain
	retiredFile = "retired.pem" // certificates of earlier issuers; their keys are gone
	pendingFile = "pending.key" // a key and its request, until the answer is imported
	serverFile  = "server.pem"  // key and certificate of the box's listeners
	temporary   = ".tmp"        // a file that a crash left half-made

	typeKey         = "PRIVATE KEY"
	typeCertificate = "CERTIFICATE"
	typeRequest     = "CERTIFICATE REQUEST"
)

// ErrDamaged: a file of the authority is missing or broken. Nothing was changed.
var ErrDamaged = errors.New("damaged file")

// prepare makes the folder and removes what a crash left half-made in it. A
// restored backup may have brought wider modes: nobody else may read a key. What
// an earlier process renamed and did not live to sync is synced here, or a power
// cut could still take back an authority that has issued since.
func prepare(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a folder needs its x bit
		return err
	}
	for _, name := range []string{issuerFile, retiredFile, pendingFile, serverFile} {
		name = filepath.Join(dir, name)
		if err := os.Remove(name + temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := os.Chmod(name, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return errors.Join(syncFolder(dir), syncFolder(filepath.Dir(dir)))
}

// load reads the present issuer and the retired ones; nil for an empty folder.
func load(dir string) (*issuer, []*x509.Certificate, error) {
	present, err := readIssuer(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, mayCreate(dir)
	}
	if err != nil {
		return nil, nil, err
	}
	retired, err := readRetired(dir)
	return present, retired, err
}

// mayCreate reports why no new authority may be made: the issuer's file is the
// first to be written, so with another one there it was lost.
func mayCreate(dir string) error {
	for _, name := range []string{retiredFile, pendingFile, serverFile} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return issuerDamaged(dir, "missing, though "+name+" is there")
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func issuerDamaged(dir, problem string) error {
	return fmt.Errorf("%w: %s: %s; restore the folder from a backup, or move it away to have a new"+
		" authority made: every device with a certificate then has to claim anew",
		ErrDamaged, filepath.Join(dir, issuerFile), problem)
}

func readIssuer(dir string) (*issuer, error) {
	text, err := os.ReadFile(filepath.Join(dir, issuerFile))
	if err != nil {
		return nil, err
	}
	key, chain, err := parseKeyAndChain(text)
	if err != nil {
		return nil, issuerDamaged(dir, err.Error())
	}
	if err := checkLinks(chain); err != nil {
		return nil, issuerDamaged(dir, err.Error())
	}
	return &issuer{key: key, chain: chain}, nil
}

func writeIssuer(dir string, i *issuer) error {
	key, err := keyBlock(i.key)
	if err != nil {
		return err
	}
	blocks := []*pem.Block{key}
	for _, cert := range i.chain {
		blocks = append(blocks, certificateBlock(cert))
	}
	return writeBlocks(filepath.Join(dir, issuerFile), blocks)
}

func readRetired(dir string) ([]*x509.Certificate, error) {
	name := filepath.Join(dir, retiredFile)
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	blocks, err := parseBlocks(text)
	var retired []*x509.Certificate
	if err == nil {
		retired, err = parseCertificates(blocks)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w; restore it from a backup, or move it away: the devices of earlier"+
			" issuers then have to claim anew", ErrDamaged, name, err)
	}
	return retired, nil
}

func writeRetired(dir string, certs []*x509.Certificate) error {
	if len(certs) == 0 {
		return nil // none were ever written
	}
	var blocks []*pem.Block
	for _, cert := range certs {
		blocks = append(blocks, certificateBlock(cert))
	}
	return writeBlocks(filepath.Join(dir, retiredFile), blocks)
}

// parseKeyAndChain reads a key and the chain of its certificate, and nothing else.
func parseKeyAndChain(text []byte) (*ecdsa.PrivateKey, []*x509.Certificate, error) {
	blocks, err := parseBlocks(text)
	if err != nil {
		return nil, nil, err
	}
	if len(blocks) < 2 || blocks[0].Type != typeKey {
		return nil, nil, errors.New("want a private key and certificates")
	}
	key, err := parseKey(blocks[0])
	if err != nil {
		return nil, nil, err
	}
	chain, err := parseCertificates(blocks[1:])
	if err != nil {
		return nil, nil, err
	}
	if !key.PublicKey.Equal(chain[0].PublicKey) {
		return nil, nil, errors.New("the key is not that of the first certificate")
	}
	return key, chain, nil
}

// parseKey never repeats what it read: it is, or was, a key (P5).
func parseKey(block *pem.Block) (*ecdsa.PrivateKey, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	key, ok := parsed.(*ecdsa.PrivateKey)
	if err != nil || !ok {
		return nil, errors.New("the private key cannot be read")
	}
	return key, nil
}

func parseCertificates(blocks []*pem.Block) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for n, block := range blocks {
		if block.Type != typeCertificate {
			return nil, errors.New("want certificates only")
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d cannot be read", n+1)
		}
		certs = append(certs, cert)
	}
	return certs, nil
}

// parseBlocks reads all PEM blocks of text. The decoder steps over a block that
// it cannot read; here that is an error, and so is anything between them.
func parseBlocks(text []byte) ([]*pem.Block, error) {
	var blocks []*pem.Block
	rest := bytes.TrimSpace(text)
	for len(rest) > 0 {
		block, after := pem.Decode(rest)
		if block == nil || len(block.Headers) > 0 || !bytes.HasPrefix(rest, []byte("-----BEGIN "+block.Type+"-----")) ||
			bytes.Count(rest[:len(rest)-len(after)], []byte("-----BEGIN")) != 1 {
			return nil, errors.New("not whole PEM blocks")
		}
		blocks = append(blocks, block)
		rest = bytes.TrimSpace(after)
	}
	if len(blocks) == 0 {
		return nil, errors.New("empty")
	}
	return blocks, nil
}

func keyBlock(key *ecdsa.PrivateKey) (*pem.Block, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	return &pem.Block{Type: typeKey, Bytes: der}, err
}

func certificateBlock(cert *x509.Certificate) *pem.Block {
	return &pem.Block{Type: typeCertificate, Bytes: cert.Raw}
}

// writeBlocks replaces a file, all or nothing. Nil means that it is on the disk;
// after an error it may be the old or the new one.
func writeBlocks(name string, blocks []*pem.Block) error {
	var text []byte
	for _, block := range blocks {
		text = slices.Concat(text, pem.EncodeToMemory(block))
	}
	f, err := os.OpenFile(name+temporary, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(name+temporary, name); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(name))
}

func removeFile(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncFolder(filepath.Dir(name))
}

func syncFolder(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
