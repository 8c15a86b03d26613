package tlsconf

import (
	"net"
	"os"
	"slices"
	"strings"
)

const (
	// maxAddresses is how many addresses of interfaces are looked at: a
	// certificate has its own limit, and a machine may have thousands.
	maxAddresses = 64
	// hostLetters are those of a host's name (RFC 952), and the underscore that
	// machines' names have all the same.
	hostLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
)

// Names are those that the box's own certificate is for: localhost and its
// addresses, the host's name, the addresses listened on (host:port; where that
// is every address, those of every interface), and more, names and addresses
// that the operator adds. Each is there once. What cannot be found out is left
// out, and so is a host's name that is none for a certificate.
func Names(listen, more []string) (names []string, ips []net.IP) {
	names = []string{"localhost"}
	ips = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}
	if host, err := os.Hostname(); err == nil && host != "" && strings.Trim(host, hostLetters) == "" {
		names = append(names, host)
	}
	add := func(name string) {
		if ip := net.ParseIP(name); ip != nil {
			ips = append(ips, ip)
		} else if name != "" {
			names = append(names, name)
		}
	}
	for _, address := range listen {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			continue
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			ips = append(ips, interfaceAddresses()...)
			continue
		}
		add(host)
	}
	for _, name := range more {
		add(name)
	}
	slices.Sort(names)
	order := func(x, y net.IP) int { return slices.Compare(x.To16(), y.To16()) }
	slices.SortFunc(ips, order)
	return slices.Compact(names), slices.CompactFunc(ips, net.IP.Equal)
}

// interfaceAddresses are the unicast ones, but those that mean something only
// together with a zone.
func interfaceAddresses() []net.IP {
	found, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var ips []net.IP
	for _, address := range found[:min(len(found), maxAddresses)] {
		if network, ok := address.(*net.IPNet); ok && !network.IP.IsLinkLocalUnicast() && !network.IP.IsMulticast() {
			ips = append(ips, network.IP)
		}
	}
	return ips
}
