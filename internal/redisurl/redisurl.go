// Package redisurl reads what names a Redis: one server, the master behind
// Sentinels, or a Redis Cluster.
//
//	t, err := redisurl.Parse("rediss+cluster://:s3cret@10.0.0.1:6379,10.0.0.2?ca=/etc/redis/ca.pem")
//
// All of them:
//
//	redis://user:password@host:6379/0            one server
//	unix://user:password@/run/redis.sock?db=0    one on this machine
//	redis+sentinel://user:password@sentinel-1:26379,sentinel-2/mymaster/0
//	redis+cluster://user:password@node-1:6379,node-2
//
// With rediss in the place of redis, also before a plus, all connections are TLS;
// those to Sentinels too. Its options: ca, cert and key name files in PEM, the
// second pair where Redis wants to know who calls; server_name is what the
// certificate must be for, where that is not the host; skip_verify=true believes any.
// Sentinels may have a user of their own: sentinel_user and sentinel_password.
//
// Pitfalls: nothing is passed over in silence, so an option that has no effect is an
// error. No error has any of the URL in it, but for names of options and files: it may
// have a password.
package redisurl

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Kind is what a URL names.
type Kind string

// The kinds.
const (
	Server   Kind = "server"
	Sentinel Kind = "sentinel"
	Cluster  Kind = "cluster"
)

// Target is what a URL says.
type Target struct {
	Kind    Kind
	Network string   // tcp or unix
	Addrs   []string // host:port of the server, of Sentinels or of some nodes; of unix the path
	Master  string   // its name among Sentinels

	User, Password                 string
	SentinelUser, SentinelPassword string

	DB  int
	TLS *TLS // nil for none
}

const (
	serverPort   = "6379"
	sentinelPort = "26379"
)

// kinds of the schemes. That of TLS has an s behind redis.
var kinds = map[string]Kind{"redis": Server, "unix": Server, "redis+sentinel": Sentinel, "redis+cluster": Cluster}

const schemes = "redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, redis+cluster:// or rediss+cluster://"

// Parse reads a URL, and the files that it names.
func Parse(text string) (Target, error) {
	scheme, rest, ok := strings.Cut(text, "://")
	plain := strings.Replace(scheme, "rediss", "redis", 1)
	kind, known := kinds[plain]
	if !ok || !known || rest == "" {
		return Target{}, errors.New("must begin with " + schemes)
	}
	authority, path := rest, ""
	if end := strings.IndexAny(rest, "/?"); end >= 0 {
		authority, path = rest[:end], rest[end:]
	}
	at := strings.LastIndex(authority, "@")
	hosts := authority[at+1:]
	u, err := url.Parse("redis://" + authority[:at+1] + path) // hosts are a list, which a URL has not
	if err != nil || u.Fragment != "" {
		return Target{}, errors.New("can't be read as " + form(kind) + "; what is special in a user or password must be percent-encoded")
	}
	t := Target{Kind: kind, Network: "tcp", User: u.User.Username()}
	t.Password, _ = u.User.Password()
	o := options{values: u.Query()}
	switch {
	case scheme == "unix":
		t.Network, t.Addrs = "unix", []string{u.Path}
		if hosts != "" || len(u.Path) < 2 {
			return Target{}, errors.New("can't be read as unix:///path/of/the/socket")
		}
		t.DB, err = database(o.take("db"))
	case kind == Sentinel:
		var db string
		t.Master, db, _ = strings.Cut(strings.Trim(u.Path, "/"), "/")
		if t.Master == "" {
			return Target{}, errors.New("lacks the name of the master, which Sentinels know it by: " + form(kind))
		}
		t.SentinelUser, t.SentinelPassword = o.take("sentinel_user"), o.take("sentinel_password")
		t.DB, err = database(db)
	default:
		t.DB, err = database(strings.Trim(u.Path, "/"))
		if kind == Cluster && err == nil && t.DB != 0 {
			err = errors.New("a Redis Cluster has no databases but 0")
		}
	}
	if err != nil {
		return Target{}, err
	}
	if t.Addrs == nil {
		if t.Addrs, err = addresses(hosts, kind); err != nil {
			return Target{}, err
		}
	}
	if scheme != plain {
		if t.TLS, err = o.takeTLS(); err != nil {
			return Target{}, err
		}
	}
	return t, o.rest(t.TLS != nil)
}

func form(kind Kind) string {
	switch kind {
	case Sentinel:
		return "redis+sentinel://user:password@host:port,host:port/master"
	case Cluster:
		return "redis+cluster://user:password@host:port,host:port"
	}
	return "scheme://user:password@host:port/database, the database being a number"
}

func addresses(hosts string, kind Kind) (addrs []string, err error) {
	port := serverPort
	if kind == Sentinel {
		port = sentinelPort
	}
	for host := range strings.SplitSeq(hosts, ",") {
		switch h, p, err := net.SplitHostPort(host); {
		case err == nil && h != "" && port16(p):
			addrs = append(addrs, host)
		case host != "" && !strings.Contains(host, ":"), strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]"):
			addrs = append(addrs, net.JoinHostPort(strings.Trim(host, "[]"), port))
		default:
			return nil, errors.New("has a host that can't be read; want " + form(kind))
		}
	}
	if kind == Server && len(addrs) > 1 {
		return nil, errors.New("has several hosts: for a Redis Cluster write redis+cluster://, for Sentinels redis+sentinel://")
	}
	return addrs, nil
}

func port16(text string) bool {
	n, err := strconv.ParseUint(text, 10, 16)
	return err == nil && n > 0
}

func database(text string) (int, error) {
	if text == "" {
		return 0, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 {
		return 0, errors.New("the database must be a number")
	}
	return n, nil
}

// options are those behind the question mark, which are taken one by one.
type options struct{ values url.Values }

func (o options) take(name string) string {
	value := o.values.Get(name)
	o.values.Del(name)
	return value
}

// rest is an error where an option is left that nobody took.
func (o options) rest(secure bool) error {
	left := slices.Sorted(maps.Keys(o.values))
	switch {
	case len(left) == 0:
		return nil
	case !secure && slices.Contains(tlsOptions, left[0]):
		return fmt.Errorf("the option %s is of TLS, and the scheme is one without: write rediss in the place of redis", left[0])
	}
	return fmt.Errorf("the option %q is not known here; there are %s, of unix db, of Sentinels sentinel_user and sentinel_password", left[0], strings.Join(tlsOptions, ", "))
}
