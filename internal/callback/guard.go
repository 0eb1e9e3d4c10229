package callback

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"syscall"

	"code.dny.dev/ssrf"
)

// maxURL is the longest callback URL in bytes: it is part of every record.
const maxURL = 2048

// Guard decides which addresses may be called. A client chooses the URL, so
// without a guard it could have the gateway call the machines beside it.
type Guard struct {
	guardian *ssrf.Guardian
}

// NewGuard makes a guard that refuses every special-purpose address (loopback,
// private, link-local, …) except those in allowed: CIDRs such as "10.1.0.0/16"
// or single addresses.
func NewGuard(allowed []string) (*Guard, error) {
	var v4, v6 []netip.Prefix
	for _, text := range allowed {
		prefix, err := parsePrefix(text)
		if err != nil {
			return nil, err
		}
		if prefix.Addr().Is4() {
			v4 = append(v4, prefix)
		} else {
			v6 = append(v6, prefix)
		}
	}
	return &Guard{ssrf.New(ssrf.WithAnyPort(), ssrf.WithAllowedV4Prefixes(v4...), ssrf.WithAllowedV6Prefixes(v6...))}, nil
}

func parsePrefix(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil {
		addr = addr.Unmap().WithZone("")
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(text)
	if err != nil || prefix.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("allowed callback network %q: want a CIDR such as 10.1.0.0/16 or fd00::/8, or one address", text)
	}
	return prefix.Masked(), nil
}

// control is what net.Dialer asks before it connects, after the name was
// resolved: what the name meant at submit time doesn't matter here.
func (g *Guard) control(_, address string, _ syscall.RawConn) error {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("read the address of the receiver: %w", err)
	}
	return g.checkAddr(to.Addr())
}

// checkAddr treats ::ffff:10.0.0.1 as what it reaches.
func (g *Guard) checkAddr(addr netip.Addr) error { return g.guardian.SafeAddr(addr.Unmap()) }

// CheckURL says in words for the client why a URL can't be a callback, or
// returns nil. It resolves no names: the address that counts is the one at the
// time of the delivery, and it is checked then.
func (g *Guard) CheckURL(raw string) error {
	if len(raw) > maxURL {
		return fmt.Errorf("it is longer than %d bytes", maxURL)
	}
	u, err := url.Parse(raw)
	if err != nil {
		return errors.New("it is no URL")
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("its scheme is neither http nor https")
	case u.User != nil:
		return errors.New("it has a user name or password in it; use a secret path or verify the signature instead")
	case host == "" || u.Opaque != "":
		return errors.New("it has no host")
	case strings.ContainsFunc(raw, func(r rune) bool { return r <= ' ' || r == 0x7f }):
		return errors.New("it has white space or control characters in it")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return fmt.Errorf("its port %s is outside 1..65535", port)
		}
	}
	return g.checkHost(host)
}

func (g *Guard) checkHost(host string) error {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		if g.checkAddr(netip.AddrFrom4([4]byte{127, 0, 0, 1})) != nil && g.checkAddr(netip.IPv6Loopback()) != nil {
			return errors.New("it points at this machine, which callbacks.allow_cidrs does not name")
		}
		return nil
	}
	if addr, err := netip.ParseAddr(host); err == nil {
		if g.checkAddr(addr) != nil {
			return errors.New("its address is private or reserved, and callbacks.allow_cidrs does not name it")
		}
		return nil
	}
	// 127.1, 0x7f000001 and 2130706433 are names to Go and addresses to others.
	last := host[strings.LastIndexByte(host, '.')+1:]
	if _, err := strconv.ParseUint(last, 0, 64); err == nil || strings.Trim(last, "0123456789") == "" {
		return errors.New("its host is neither a name nor an address in the usual form")
	}
	return nil
}
