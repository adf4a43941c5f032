package network

import (
	"os"
	"reflect"
	"testing"
)

const devText = `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    1010      11    0    0    0     0          0         0     1010      11    0    0    0     0       0          0
  eth0:123456789     5    1    2    0     0          0         0 18446744073709551615       7    3    4    0     0       0          0
`

func TestParseDev(t *testing.T) {
	want := []Interface{
		{Name: "lo", RxBytes: 1010, RxPackets: 11, TxBytes: 1010, TxPackets: 11},
		{Name: "eth0", RxBytes: 123456789, RxPackets: 5, RxErrors: 1, RxDropped: 2, TxBytes: 1<<64 - 1, TxPackets: 7, TxErrors: 3, TxDropped: 4},
	}
	if got := parseDev(devText); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
}

func FuzzParseDev(f *testing.F) {
	f.Add(devText)
	f.Add("a:")
	f.Fuzz(func(t *testing.T, text string) {
		for _, i := range parseDev(text) {
			if len(i.Name) > len(text) {
				t.Errorf("%q", i.Name)
			}
		}
	})
}

func TestUsageOfThisAndOfNone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to enter namespaces")
	}
	all, err := Usage([]string{"/proc/self/ns/net", "/nonexistent"})
	if err != nil || len(all) != 2 || len(all[0]) == 0 || all[1] != nil {
		t.Errorf("got %+v, %v", all, err)
	}
}
