package slowlink_test

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/slipwayd/slipway/testsuite/slowlink"
)

func start(t *testing.T, cfg slowlink.Config, body []byte) *slowlink.Link {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
	t.Cleanup(srv.Close)
	cfg.Target = strings.TrimPrefix(srv.URL, "http://")
	l, err := slowlink.Listen("127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func get(t *testing.T, c *http.Client, l *slowlink.Link, want []byte) time.Duration {
	t.Helper()
	begin := time.Now()
	resp, err := c.Get("http://" + l.Addr() + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, want %d: %v", len(got), len(want), err)
	}
	return time.Since(begin)
}

// TestRoundTrips holds the lower bounds only: what else the machine does may make each longer.
func TestRoundTrips(t *testing.T) {
	const rtt = 20 * time.Millisecond
	l := start(t, slowlink.Config{RTT: rtt}, []byte("hello"))
	c := &http.Client{Transport: &http.Transport{}}
	defer c.CloseIdleConnections()
	if d := get(t, c, l, []byte("hello")); d < 2*rtt {
		t.Errorf("the first request took %v, less than set-up and one round trip", d)
	}
	for range 2 {
		if d := get(t, c, l, []byte("hello")); d < rtt {
			t.Errorf("a request took %v, less than a round trip", d)
		}
	}
	if s := l.Stats(); s.Connections != 1 || s.Requests != 3 || s.Received < 3*5 || s.Sent == 0 {
		t.Errorf("counted %+v", s)
	}
	l.Reset()
	if s := l.Stats(); s != (slowlink.Stats{}) {
		t.Errorf("after Reset: %+v", s)
	}
}

func TestBandwidthIsShared(t *testing.T) {
	body := bytes.Repeat([]byte("0123456789abcdef"), 1<<15) // 512 KiB
	l := start(t, slowlink.Config{Bandwidth: 80e6}, body)   // 10 MB/s
	begin := time.Now()
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			c := &http.Client{Transport: &http.Transport{}}
			defer c.CloseIdleConnections()
			get(t, c, l, body)
		})
	}
	all.Wait()
	if d, least := time.Since(begin), time.Duration(4*len(body))*time.Second/10e6; d < least {
		t.Errorf("four answers of %d bytes took %v, less than the line needs (%v)", len(body), d, least)
	}
}

func TestCut(t *testing.T) {
	hold := make(chan struct{})
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hold }))
	defer srv.Close()
	defer close(hold)
	l, err := slowlink.Listen("127.0.0.1:0", slowlink.Config{Target: strings.TrimPrefix(srv.URL, "http://")})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	for l.Stats().Requests == 0 {
		time.Sleep(time.Millisecond) // until the link has seen the request
	}
	l.Cut()
	if n, err := c.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes of a connection that was cut", n)
	}
}
