package alarm

import (
	"testing"
	"time"
)

// A channel that is new is told of what stands, and not of the end of what it never heard of; one that was only away is told both.
func TestANewChannelIsNotToldOfThePast(t *testing.T) {
	x := &scene{now: start(), channels: []string{"mail"}}
	x.pass(time.Minute, an(NodeDead, "b"))
	x.pass(time.Hour)
	x.channels = append(x.channels, "ntfy")
	x.pass(time.Minute, an(NodeDead, "c"))
	if len(x.st.Book.Groups) != 2 {
		t.Fatalf("got %+v", x.st.Book)
	}
	past, now := x.st.Book.Groups[0], x.st.Book.Groups[1]
	if past.Due("ntfy", false) != Nothing || past.Due("ntfy", true) != Nothing {
		t.Error("a new channel is told of what it never heard of")
	}
	if past.Due("mail", false) != Post {
		t.Error("a channel that was away is not told")
	}
	if now.Due("ntfy", false) != Post || now.Due("mail", false) != Post {
		t.Error("what stands is not told")
	}
	if past.Told() {
		t.Error("nobody was told yet")
	}
	// Another node's book, in which the channel has a receipt already, keeps that; one without it takes the debt over.
	other := Book{Groups: []Group{{ID: past.ID, Began: past.Began, Changed: past.Changed, Resolved: past.Resolved, Edit: past.Edit, Loud: past.Loud, News: past.News}}}
	if m := Merge(other, x.st.Book); m.Groups[0].Due("mail", false) != Post {
		t.Errorf("the debt is forgotten: %+v", m.Groups[0])
	}
}

// A place that can edit and refused the first message of a group is still told of what joins it, and of its end, and then has a message to edit.
func TestARefusedFirstMessageDoesNotMuteItsGroup(t *testing.T) {
	x := &scene{now: start(), channels: []string{"discord"}}
	told := func(message string) {
		t.Helper()
		x.st.Book.Done("discord", x.st.Book.Groups[0], message)
	}
	due := func() int { return x.st.Book.Groups[0].Due("discord", true) }
	x.pass(time.Minute, an(NodeDead, "b"))
	if due() != Post {
		t.Fatalf("got %+v", x.st.Book)
	}
	told("") // it refused it
	if due() != Nothing {
		t.Error("what was refused is told again")
	}
	x.pass(2*time.Minute, an(NodeDead, "b"), an(Divergent, "home on c"))
	if due() != Post {
		t.Errorf("a warning that joined is not told: %+v", x.st.Book.Groups[0])
	}
	told("")
	x.pass(time.Hour)
	if g := x.st.Book.Groups[0]; g.Resolved.IsZero() || due() != Post {
		t.Errorf("the end is not told: %+v", g)
	}
	told("")
	if due() != Nothing {
		t.Error("the end is told again")
	}
}

// Once a message is there it is edited, whatever was refused before.
func TestAfterARefusalMessagesAreEditedAgain(t *testing.T) {
	x := &scene{now: start(), channels: []string{"discord"}}
	x.pass(time.Minute, an(NodeDead, "b"))
	x.st.Book.Done("discord", x.st.Book.Groups[0], "")
	x.pass(2*time.Minute, an(NodeDead, "b"), an(Divergent, "home on c"))
	x.st.Book.Done("discord", x.st.Book.Groups[0], "4711")
	x.pass(time.Hour)
	if g := x.st.Book.Groups[0]; g.Due("discord", true) != Update {
		t.Errorf("got %+v", g)
	}
}
