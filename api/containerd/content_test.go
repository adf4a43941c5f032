package containerd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	"github.com/opencontainers/go-digest"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

const (
	statAct   = contentapi.WriteAction_STAT
	writeAct  = contentapi.WriteAction_WRITE
	commitAct = contentapi.WriteAction_COMMIT
)

// say sends one message of a Write stream and answers the reply.
func say(t *testing.T, s contentapi.Content_WriteClient, m *contentapi.WriteContentRequest) (*contentapi.WriteContentResponse, error) {
	t.Helper()
	if err := s.Send(m); err != nil && !errors.Is(err, io.EOF) { // the status comes from Recv
		t.Fatal(err)
	}
	return s.Recv()
}

// put writes a whole blob in one message.
func put(t *testing.T, h *host, ctx context.Context, data string, labels map[string]string) (digest.Digest, error) {
	t.Helper()
	s := must(contentapi.NewContentClient(h).Write(ctx))(t)
	d := digest.FromString(data)
	_, err := say(t, s, &contentapi.WriteContentRequest{
		Action: commitAct, Ref: "put-" + d.Encoded(), Data: []byte(data), Total: int64(len(data)), Expected: d.String(), Labels: labels,
	})
	return d, err
}

func TestContentWriteProtocol(t *testing.T) {
	const text = "hello, world"
	sum := digest.FromString(text).String()
	type m = contentapi.WriteContentRequest
	for name, test := range map[string]struct {
		send   []*m
		code   codes.Code // of the last
		offset int64      // in the last reply
	}{
		"no ref":                      {[]*m{{Action: statAct}}, codes.InvalidArgument, 0},
		"unknown action":              {[]*m{{Action: 9, Ref: "r"}}, codes.InvalidArgument, 0},
		"bad digest":                  {[]*m{{Action: statAct, Ref: "r", Expected: "sha256:xx"}}, codes.InvalidArgument, 0},
		"stat begins":                 {[]*m{{Action: statAct, Ref: "r"}}, codes.OK, 0},
		"ref only once":               {[]*m{{Action: statAct, Ref: "r"}, {Action: writeAct, Data: []byte(text)}}, codes.OK, 12},
		"another ref":                 {[]*m{{Action: statAct, Ref: "r"}, {Action: statAct, Ref: "q"}}, codes.InvalidArgument, 0},
		"append":                      {[]*m{{Action: writeAct, Ref: "r", Data: []byte("hello")}, {Action: writeAct, Offset: 5, Data: []byte(", world")}}, codes.OK, 12},
		"gap":                         {[]*m{{Action: writeAct, Ref: "r", Data: []byte("hello")}, {Action: writeAct, Offset: 7, Data: []byte("x")}}, codes.OutOfRange, 0},
		"back":                        {[]*m{{Action: writeAct, Ref: "r", Data: []byte("hello")}, {Action: writeAct, Offset: 2, Data: []byte("x")}}, codes.OutOfRange, 0},
		"negative":                    {[]*m{{Action: writeAct, Ref: "r", Offset: -1, Data: []byte("x")}}, codes.OutOfRange, 0},
		"0 with data begins again":    {[]*m{{Action: writeAct, Ref: "r", Data: []byte("junk")}, {Action: writeAct, Data: []byte(text)}}, codes.OK, 12},
		"0 without data does not":     {[]*m{{Action: writeAct, Ref: "r", Data: []byte(text)}, {Action: writeAct}}, codes.OK, 12},
		"commit":                      {[]*m{{Action: writeAct, Ref: "r", Data: []byte(text)}, {Action: commitAct, Offset: 12, Total: 12, Expected: sum}}, codes.OK, 12},
		"commit with data":            {[]*m{{Action: commitAct, Ref: "r", Data: []byte(text), Expected: sum}}, codes.OK, 12},
		"commit without expectations": {[]*m{{Action: commitAct, Ref: "r", Data: []byte(text)}}, codes.OK, 12},
		"commit of a wrong digest":    {[]*m{{Action: commitAct, Ref: "r", Data: []byte("other"), Expected: sum}}, codes.FailedPrecondition, 0},
		"commit of a wrong size":      {[]*m{{Action: commitAct, Ref: "r", Data: []byte("hello"), Total: 12}}, codes.FailedPrecondition, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := newReadyHost(t)
			s := must(contentapi.NewContentClient(h).Write(in(t, "ns")))(t)
			for i, msg := range test.send {
				resp, err := say(t, s, msg)
				if i < len(test.send)-1 {
					wantCode(t, err, codes.OK)
					continue
				}
				wantCode(t, err, test.code)
				if err == nil && resp.Offset != test.offset {
					t.Errorf("offset %d, want %d", resp.Offset, test.offset)
				}
				if err == nil && test.offset == 12 && resp.Digest != sum {
					t.Errorf("digest %s, want %s", resp.Digest, sum)
				}
				if err == nil && msg.Action == commitAct {
					if _, err := s.Recv(); !errors.Is(err, io.EOF) {
						t.Errorf("a commit must end the stream, got %v", err)
					}
				}
			}
		})
	}
}

func TestContentWriteLocksItsRef(t *testing.T) {
	h := newReadyHost(t)
	c := contentapi.NewContentClient(h)
	first := must(c.Write(in(t, "ns")))(t)
	must(say(t, first, &contentapi.WriteContentRequest{Action: writeAct, Ref: "r", Data: []byte("abc")}))(t)

	_, err := say(t, must(c.Write(in(t, "ns")))(t), &contentapi.WriteContentRequest{Action: statAct, Ref: "r"})
	wantCode(t, err, codes.Unavailable)
	_, err = c.Abort(in(t, "ns"), &contentapi.AbortRequest{Ref: "r"})
	wantCode(t, err, codes.Unavailable)
	// Refs of another namespace are other refs.
	must(say(t, must(c.Write(in(t, "other")))(t), &contentapi.WriteContentRequest{Action: statAct, Ref: "r"}))(t)

	if err := first.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Recv(); !errors.Is(err, io.EOF) { // the lock is gone when the stream has ended
		t.Fatal(err)
	}
	resumed := must(say(t, must(c.Write(in(t, "ns")))(t), &contentapi.WriteContentRequest{Action: statAct, Ref: "r"}))(t)
	if resumed.Offset != 3 || resumed.StartedAt == nil || resumed.UpdatedAt == nil {
		t.Errorf("resumed at %v", resumed)
	}
	if st := must(c.Status(in(t, "ns"), &contentapi.StatusRequest{Ref: "r"}))(t).Status; st.Offset != 3 || st.Ref != "r" {
		t.Errorf("status is %v", st)
	}
	if all := must(c.ListStatuses(in(t, "ns"), &contentapi.ListStatusesRequest{Filters: []string{"ref~=^r$"}}))(t).Statuses; len(all) != 1 {
		t.Errorf("statuses are %v", all)
	}
}

func TestExistingContentJoinsTheLease(t *testing.T) {
	h := newReadyHost(t)
	leases := leasesapi.NewLeasesClient(h)
	must(leases.Create(in(t, "ns"), &leasesapi.CreateRequest{ID: "l"}))(t)
	d := must(put(t, h, in(t, "ns"), "data", nil))(t)

	_, err := put(t, h, in(t, "ns", "l"), "data", nil)
	wantCode(t, err, codes.AlreadyExists)
	got := must(leases.ListResources(in(t, "ns"), &leasesapi.ListResourcesRequest{ID: "l"}))(t).Resources
	if len(got) != 1 || got[0].Type != "content" || got[0].ID != d.String() {
		t.Errorf("the lease holds %v", got)
	}
}

func TestContentOfAnotherNamespaceIsFullButNotVisible(t *testing.T) {
	h := newReadyHost(t)
	c := contentapi.NewContentClient(h)
	d := must(put(t, h, in(t, "one"), "shared data", map[string]string{"k": "v"}))(t)
	_, err := c.Info(in(t, "two"), &contentapi.InfoRequest{Digest: d.String()})
	wantCode(t, err, codes.NotFound)

	s := must(c.Write(in(t, "two")))(t)
	st := must(say(t, s, &contentapi.WriteContentRequest{Action: statAct, Ref: "r", Expected: d.String(), Total: 11}))(t)
	if st.Offset != 11 || st.Total != 11 {
		t.Fatalf("opens at %d of %d, want it full", st.Offset, st.Total)
	}
	if st := must(c.Status(in(t, "two"), &contentapi.StatusRequest{Ref: "r"}))(t).Status; st.Offset != 11 {
		t.Errorf("status says %d", st.Offset)
	}
	_, err = c.Info(in(t, "two"), &contentapi.InfoRequest{Digest: d.String()})
	wantCode(t, err, codes.NotFound) // still
	must(say(t, s, &contentapi.WriteContentRequest{Action: commitAct, Offset: 11, Total: 11, Expected: d.String()}))(t)
	info := must(c.Info(in(t, "two"), &contentapi.InfoRequest{Digest: d.String()}))(t).Info
	if info.Size != 11 || len(info.Labels) != 0 {
		t.Errorf("info is %v; labels are the other namespace's own", info)
	}
	// The bytes live as long as one namespace has them.
	must(c.Delete(in(t, "one"), &contentapi.DeleteContentRequest{Digest: d.String()}))(t)
	if got := readBlob(t, h, "two", d, 0, 0); string(got) != "shared data" {
		t.Errorf("read %q", got)
	}
	must(c.Delete(in(t, "two"), &contentapi.DeleteContentRequest{Digest: d.String()}))(t)
	s = must(c.Write(in(t, "two")))(t)
	if st := must(say(t, s, &contentapi.WriteContentRequest{Action: statAct, Ref: "r", Expected: d.String(), Total: 11}))(t); st.Offset != 0 {
		t.Errorf("opens at %d after the last namespace deleted it", st.Offset)
	}
}

// A client that does not look at the offset sends everything again.
func TestFullContentCanBeWrittenAgain(t *testing.T) {
	h := newReadyHost(t)
	d := must(put(t, h, in(t, "one"), "shared data", nil))(t)
	s := must(contentapi.NewContentClient(h).Write(in(t, "two")))(t)
	must(say(t, s, &contentapi.WriteContentRequest{Action: statAct, Ref: "r", Expected: d.String(), Total: 11}))(t)
	must(say(t, s, &contentapi.WriteContentRequest{Action: commitAct, Data: []byte("shared data"), Total: 11, Expected: d.String()}))(t)
	if got := readBlob(t, h, "two", d, 0, 0); string(got) != "shared data" {
		t.Errorf("read %q", got)
	}
}

func readBlob(t *testing.T, h *host, ns string, d digest.Digest, offset, size int64) []byte {
	t.Helper()
	s := must(contentapi.NewContentClient(h).Read(in(t, ns), &contentapi.ReadContentRequest{Digest: d.String(), Offset: offset, Size: size}))(t)
	var all bytes.Buffer
	for {
		m, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return all.Bytes()
		}
		if err != nil {
			t.Fatal(err)
		}
		if m.Offset != offset+int64(all.Len()) {
			t.Fatalf("message is for offset %d, want %d", m.Offset, offset+int64(all.Len()))
		}
		all.Write(m.Data)
	}
}

func TestContentRead(t *testing.T) {
	h := newReadyHost(t)
	data := string(bytes.Repeat([]byte("0123456789"), readChunk/5)) // two messages
	d := must(put(t, h, in(t, "ns"), data, nil))(t)
	size := int64(len(data))
	for name, test := range map[string]struct {
		offset, size int64
		code         codes.Code
		want         string
	}{
		"all":             {0, 0, codes.OK, data},
		"some":            {3, 4, codes.OK, "3456"},
		"the rest":        {size - 2, 0, codes.OK, "89"},
		"across messages": {readChunk - 1, 2, codes.OK, data[readChunk-1 : readChunk+1]},
		"at the end":      {size, 0, codes.OK, ""},
		"before":          {-5, 2, codes.OK, "01"},
		"past the end":    {size + 1, 0, codes.OutOfRange, ""},
		"more than is":    {size - 2, 3, codes.OK, "89"},
		"very much":       {size - 1, 1<<63 - 1, codes.OK, "9"},
		"negative":        {size - 3, -1, codes.OK, "789"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.code == codes.OK {
				if got := readBlob(t, h, "ns", d, max(test.offset, 0), test.size); string(got) != test.want {
					t.Errorf("read %d bytes, want %d", len(got), len(test.want))
				}
				return
			}
			s := must(contentapi.NewContentClient(h).Read(in(t, "ns"), &contentapi.ReadContentRequest{Digest: d.String(), Offset: test.offset, Size: test.size}))(t)
			_, err := s.Recv()
			wantCode(t, err, test.code)
		})
	}
}

func TestContentLabelsAndList(t *testing.T) {
	h := newReadyHost(t)
	c := contentapi.NewContentClient(h)
	d := must(put(t, h, in(t, "ns"), "a", map[string]string{"k.with.dots": "1", "other": "2"}))(t)
	must(put(t, h, in(t, "ns"), "b", nil))(t)
	info := must(c.Update(in(t, "ns"), &contentapi.UpdateRequest{
		Info:       &contentapi.Info{Digest: d.String(), Labels: map[string]string{"k.with.dots": "3"}},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"labels.k.with.dots"}},
	}))(t).Info
	if info.Labels["k.with.dots"] != "3" || info.Labels["other"] != "2" {
		t.Errorf("labels are %v", info.Labels)
	}
	_, err := c.Update(in(t, "ns"), &contentapi.UpdateRequest{
		Info: &contentapi.Info{Digest: d.String()}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"size"}},
	})
	wantCode(t, err, codes.InvalidArgument)

	s := must(c.List(in(t, "ns"), &contentapi.ListContentRequest{Filters: []string{"labels.other==2"}}))(t)
	page := must(s.Recv())(t)
	if len(page.Info) != 1 || page.Info[0].Digest != d.String() {
		t.Errorf("list answers %v", page.Info)
	}
}
