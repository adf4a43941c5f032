package metadata

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const crashFile = "SLIPWAY_METADATA_CRASH_FILE"

// TestCrashChild is no test but the process that TestCrash kills: four callers write and tell what was committed, a collector
// collects.
func TestCrashChild(t *testing.T) {
	path := os.Getenv(crashFile)
	if path == "" {
		t.Skip("only as the child of TestCrash")
	}
	db, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	var out sync.Mutex
	tell := func(format string, args ...any) {
		out.Lock()
		defer out.Unlock()
		fmt.Printf(format+"\n", args...)
	}
	var wg sync.WaitGroup
	for caller := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				name := fmt.Sprintf("%d-%d-%d", os.Getpid(), caller, i)
				if err := db.Update(context.Background(), func(tx *Tx) error {
					return errors.Join(
						add(tx, fmt.Sprintf("image %s target=1 ref.snapshot.overlay=%s", name, name)),
						add(tx, "committed "+name),
						add(tx, fmt.Sprintf("committed garbage-%s on=%s", name, name)))
				}); err != nil {
					tell("FAIL %v", err)
					return
				}
				tell("%s", name)
			}
		})
	}
	wg.Go(func() {
		for {
			if _, err := db.Collect(context.Background(), CollectOptions{}); err != nil {
				tell("FAIL %v", err)
				return
			}
		}
	})
	wg.Wait()
}

// What Update had answered for is there after SIGKILL, each transaction is there whole or not at all, and the file is sound.
func TestCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata.db")
	var acknowledged []string
	for round := range 5 {
		child := exec.Command(os.Args[0], "-test.run=^TestCrashChild$")
		child.Env = append(os.Environ(), crashFile+"="+path)
		child.Stderr = os.Stderr
		pipe, err := child.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := child.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(pipe)
		for n := 0; lines.Scan(); n++ {
			if n == 20+round*7 {
				if err := child.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
			if strings.HasPrefix(lines.Text(), "FAIL") {
				t.Error(lines.Text())
			}
			acknowledged = append(acknowledged, lines.Text())
		}
		_ = child.Wait() // killed

		db, err := Open(path, Options{})
		if err != nil {
			t.Fatal(err)
		}
		view(t, db, func(tx *Tx) error {
			images, err := tx.Images("ns").List()
			if err != nil {
				return err
			}
			have := map[string]bool{}
			graph := tx.Snapshots("ns", "overlay")
			for _, i := range images {
				have[i.Name] = true
				_, err := graph.Get(i.Name)
				is(t, "the snapshot of an image", err, nil)
			}
			for _, name := range acknowledged {
				if !have[name] {
					t.Errorf("%s was committed and is not there", name)
				}
			}
			snapshots, err := graph.List()
			for _, s := range snapshots {
				if s.Parent == "" && !have[s.Key] {
					t.Errorf("half of a transaction: snapshot %s without its image", s.Key)
				}
				if _, err := graph.Layer(s.Key); err != nil {
					t.Error(err)
				}
			}
			return err
		})
		if _, err := db.Collect(t.Context(), CollectOptions{}); err != nil {
			t.Error(err)
		}
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	}
	if len(acknowledged) < 100 {
		t.Errorf("only %d transactions were acknowledged", len(acknowledged))
	}
}
