package deliver

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"revolve/internal/alarm"
	"revolve/internal/config"
)

// The real Alertmanager takes alarms, brings them on to a receiver as one group, and brings their end.
func TestAlertmanager(t *testing.T) {
	program, err := exec.LookPath("prometheus-alertmanager")
	if err != nil {
		t.Skip("SKIPPED PART: Alertmanager is not there (apt-get install prometheus-alertmanager)")
	}
	receiver := newPlace(t, nil)
	base := startAlertmanager(t, program, receiver.URL)
	c := channel(config.Alarm{Kind: config.AlarmAlertmanager, URL: base})
	if !c.Whole {
		t.Fatal("it groups by itself")
	}
	began := time.Now().Add(-time.Minute)
	entries := []alarm.Entry{{Alarm: alarm.Alarm{Kind: alarm.NodeDead, Subject: "b", Node: "b", Severity: alarm.Warning, Text: "node b is dead"}, Began: began}, {Alarm: alarm.Alarm{Kind: alarm.NoMaster, Severity: alarm.Critical, Text: "no node is master"}, Began: began}}
	within(t, "Alertmanager takes alarms", func() bool { return c.Stream(t.Context(), "homelab", entries) == nil })
	hook := func(status string) bool {
		receiver.mu.Lock()
		defer receiver.mu.Unlock()
		for _, r := range receiver.got {
			var m struct {
				Status string
				Alerts []struct{ Labels map[string]string }
			}
			if json.Unmarshal([]byte(r.body), &m) == nil && m.Status == status && len(m.Alerts) == 2 && m.Alerts[0].Labels["cluster"] == "homelab" {
				return true
			}
		}
		return false
	}
	within(t, "one notification with both", func() bool { return hook("firing") })
	for i := range entries {
		entries[i].Closed = time.Now()
	}
	if err := c.Stream(t.Context(), "homelab", entries); err != nil {
		t.Fatal(err)
	}
	within(t, "their end", func() bool { return hook("resolved") })
	if err := c.Stream(t.Context(), "homelab", nil); err != nil {
		t.Errorf("nothing stands: %v", err)
	}
}

func within(t *testing.T, what string, met func() bool) {
	t.Helper()
	for late := time.Now().Add(time.Minute); time.Now().Before(late); time.Sleep(50 * time.Millisecond) {
		if met() {
			return
		}
	}
	t.Fatalf("not within a minute: %s", what)
}

func startAlertmanager(t *testing.T, program, receiver string) string {
	t.Helper()
	dir := t.TempDir()
	conf := "route: { receiver: test, group_by: [ cluster ], group_wait: 0s, group_interval: 1s, repeat_interval: 1h }\nreceivers: [ { name: test, webhook_configs: [ { url: \"" + receiver + "\" } ] } ]\n"
	file := filepath.Join(dir, "alertmanager.yml")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	var log strings.Builder
	cmd := exec.Command(program, "--config.file="+file, "--storage.path="+filepath.Join(dir, "data"), "--web.listen-address="+address, "--cluster.listen-address=")
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		if t.Failed() {
			t.Logf("log of alertmanager:\n%s", log.String())
		}
	})
	within(t, "Alertmanager answers", func() bool {
		resp, err := http.Get("http://" + address + "/-/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return "http://" + address
}
