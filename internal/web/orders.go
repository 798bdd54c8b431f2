package web

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/control"
	"revolve/internal/problem"
)

// How long an order waits for this node to see the new master, and how often it looks.
const (
	seenWithin = 3 * time.Second
	seenEvery  = 50 * time.Millisecond
)

// deskView is what the template of the orders gets.
type deskView struct {
	Far      bool   // the request came over a network in the clear
	Ask      string // what a tunnel leads to, "" if there is nothing
	SignedIn bool
	Form     string
	Wrong    string
	Said     saying

	Cluster, Node, Headline, Mark string
	AsOf                          stamp
	Master                        string
	Targets                       []string // who may become master
	Held                          string   // yes, no, unknown
	Alarms                        []deskAlarm
	Silences                      []deskSilence
	Times                         []silenceTime
}

type deskAlarm struct{ Kind, Subject, Severity, Text, Since, Silenced string }

type deskSilence struct{ Kind, Subject, Until, By string }

// silenceTime is a choice of how long nobody is told.
type silenceTime struct{ Value, Words string }

// show writes the page; what it tells of the cluster only who is near gets.
func (d *desk) show(w http.ResponseWriter, status int, v *deskView) {
	f, err := d.hub.current()
	if err == nil {
		v.fill(&f.status)
		var b bytes.Buffer
		if err = d.hub.renderer.page.ExecuteTemplate(&b, "orders.html", v); err == nil {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			w.WriteHeader(status)
			_, _ = w.Write(b.Bytes()) // the client has gone if this fails
			return
		}
	}
	refuse(w, http.StatusInternalServerError, "the page cannot be made: "+err.Error())
}

func (v *deskView) fill(st *control.Status) {
	v.Cluster, v.Node, v.Headline, v.Mark = st.Cluster, string(st.Node), headline(st), verdictMark(st.Verdict)
	v.AsOf = stamp{st.AsOf.Format(time.RFC3339), st.AsOf.Local().Format("2006-01-02 15:04:05")}
	if !v.SignedIn {
		return
	}
	v.Master, v.Held = st.Master, control.Unknown
	for _, n := range st.Nodes {
		if string(n.Name) != st.Master && n.Eligible == control.Yes {
			v.Targets = append(v.Targets, string(n.Name))
		}
		if n.Name == st.Node {
			v.Held = map[control.Tri]string{control.Yes: "yes", control.No: "no", control.NotKnown: control.Unknown}[n.Hold]
		}
	}
	v.Times = []silenceTime{{"1h", "an hour"}, {"8h", "8 hours"}, {"24h", "a day"}, {"168h", "a week"}}
	for _, a := range st.Alarms.Open {
		x := deskAlarm{Kind: a.Kind, Subject: a.Subject, Severity: a.Severity, Text: a.Text, Since: before(a.Since, st.AsOf)}
		if a.Silenced.After(st.AsOf) {
			x.Silenced = a.Silenced.Local().Format("2006-01-02 15:04")
		}
		v.Alarms = append(v.Alarms, x)
	}
	for _, s := range st.Alarms.Silences {
		if s.Until.After(st.AsOf) {
			v.Silences = append(v.Silences, deskSilence{s.Kind, s.Subject, s.Until.Local().Format("2006-01-02 15:04"), s.By})
		}
	}
}

// carryOut gives the order of a form, and says what came of it.
func (d *desk) carryOut(ctx context.Context, what string, form url.Values) saying {
	var text string
	var err error
	switch what {
	case "switch":
		text, err = d.orderSwitch(ctx, form)
	case "hold":
		text, err = d.orderHold(ctx, form.Get("on"))
	case "silence":
		text, err = d.orderSilence(ctx, form)
	default:
		text, err = "", fmt.Errorf("there is no such order")
	}
	if err != nil {
		d.log.Warn("an order from the status page was not carried out", "order", what, "err", err)
		return saying{Text: "Not done: " + err.Error(), Hint: problem.HintOf(err), Bad: true}
	}
	d.log.Info("an order from the status page was carried out", "order", what, "result", text)
	return saying{Text: text}
}

func (d *desk) orderSwitch(ctx context.Context, form url.Values) (string, error) {
	if form.Get("sure") != "yes" {
		return "", fmt.Errorf("the box that confirms it was not ticked")
	}
	select { // a second click waits here for what comes of the first one
	case d.moving <- struct{}{}:
		defer func() { <-d.moving }()
	case <-ctx.Done():
		return "", fmt.Errorf("another switch is not done yet")
	}
	if now, from := d.hub.master(), form.Get("from"); now != from {
		return "", fmt.Errorf("the order was to take over from %s, and master is %s now", from, now)
	}
	master, err := d.orders.Switch(ctx, cluster.NodeID(form.Get("to")))
	if err != nil {
		return "", err
	}
	d.awaitMaster(ctx, string(master))
	return fmt.Sprintf("Done: %s is master.", master), nil
}

// awaitMaster waits until this node sees it, too: a standby is told a moment later. Until then it would take the same order again.
func (d *desk) awaitMaster(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(ctx, seenWithin)
	defer cancel()
	for d.hub.master() != name {
		select {
		case <-ctx.Done():
			return
		case <-time.After(seenEvery):
		}
	}
}

func (d *desk) orderHold(ctx context.Context, on string) (string, error) {
	if on != "yes" && on != "no" {
		return "", fmt.Errorf("hold is on or off")
	}
	done, err := d.orders.Hold(ctx, on == "yes")
	text := map[bool]string{true: "Done: nothing moves by itself any more.", false: "Done: a standby takes over by itself again."}[on == "yes"]
	if len(done.Missed) > 0 {
		names := make([]string, 0, len(done.Missed))
		for _, n := range done.Missed {
			names = append(names, string(n))
		}
		text += " Not told, since they do not answer: " + strings.Join(names, ", ") + "."
	}
	return text, err
}

func (d *desk) orderSilence(ctx context.Context, form url.Values) (string, error) {
	o := control.SilenceOrder{Kind: form.Get("kind"), Subject: form.Get("subject")}
	long, err := time.ParseDuration(form.Get("for"))
	if err != nil {
		return "", fmt.Errorf("%q is no time", form.Get("for"))
	}
	o.For = long
	if err := d.orders.Silence(ctx, o); err != nil {
		return "", err
	}
	about := strings.TrimSpace(o.Kind + " " + o.Subject)
	if long == 0 {
		return "Done: people are told of " + about + " again.", nil
	}
	return fmt.Sprintf("Done: nobody is told of %s for %s.", about, long), nil
}
