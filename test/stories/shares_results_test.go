package stories

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// results are what clients of services lost, over all rounds.
type results struct {
	gaps  []gapRow
	opens []openRow
	locks int // planned switches after which another client could open a file that one had for itself alone
}

// gapRow is a client that tries again and again.
type gapRow struct {
	loss
	files   bool
	missing int // of the files that it was told are written, those that the new master does not have whole
}

// openRow is a client that keeps a file open.
type openRow struct {
	client, chapter string
	errs            []string
	longest         time.Duration
	steps, writes   bool // it says each step; it writes
	lost            int  // lines
}

// table is the report, in Markdown.
func (r *results) table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# What clients of services lose\n\nMade by `make test-services`: three nodes and a client in network namespaces on one machine (%s), %s. Every client's wait is written for each round, in the order of the rounds. "+
		"The machine's load average over 1, 5 and 15 minutes at the end: %s.\n\n", kernel(), versions(), load())
	b.WriteString("## A client that begins anew each time\n\nOne after the other, 50 ms between them, each given up after 2 s (Samba, NFS) or 1 s (WireGuard): connect, sign in, write a file of 1000 bytes, close it. Of sshfs one mount stays, and each try is one file.\n\n")
	b.WriteString("| client | what happened | tries | refused or given up | longest time without success | files told to be written, and not there or not whole |\n|---|---|---|---|---|---|\n")
	for _, rows := range groups(r.gaps, func(x gapRow) string { return x.client + x.chapter }) {
		asked, none, missing, waits := 0, 0, 0, []string{}
		for _, x := range rows {
			asked, none, missing = asked+x.asked, none+x.none, missing+x.missing
			waits = append(waits, seconds(x.longest))
		}
		tried, lost := fmt.Sprintf("%d | %d", asked, none), "-"
		if rows[0].files {
			lost = fmt.Sprint(missing)
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", rows[0].client, rows[0].chapter, tried, strings.Join(waits, ", "), lost)
	}
	b.WriteString("\n## A client that has a file open\n\nIt writes a line each 50 ms (sshfs: with fsync), or reads one (Samba that only reads), or reads 64 MiB slowly (NFS), and opens anew after an error. Both of Samba have their file for themselves alone.\n\n")
	b.WriteString("| client | what happened | what it was told | longest time between two of them | lines told to be written, and lost |\n|---|---|---|---|---|\n")
	for _, rows := range groups(r.opens, func(x openRow) string { return x.client + x.chapter }) {
		var errs, waits []string
		lost := 0
		for _, x := range rows {
			for _, e := range x.errs {
				if !slices.Contains(errs, e) {
					errs = append(errs, e)
				}
			}
			waits, lost = append(waits, seconds(x.longest)), lost+x.lost
		}
		wait, lines := strings.Join(waits, ", "), fmt.Sprint(lost)
		if !rows[0].steps {
			wait = "-"
		}
		if !rows[0].writes {
			lines = "-"
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", rows[0].client, rows[0].chapter, cmp.Or(strings.Join(errs, "; "), "nothing"), wait, lines)
	}
	fmt.Fprintf(&b, "\nA file that a client of Samba had opened for itself alone (refused to others with NT_STATUS_SHARING_VIOLATION) was opened by another client after the move in all %d planned switches, while the first one stood still.\n", r.locks)
	return b.String()
}

// groups are the rows of one key each, in the order in which the keys came.
func groups[T any](rows []T, key func(T) string) (out [][]T) {
	at := map[string]int{}
	for _, x := range rows {
		i, known := at[key(x)]
		if !known {
			i, at[key(x)] = len(out), len(out)
			out = append(out, nil)
		}
		out[i] = append(out[i], x)
	}
	return out
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

func kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown kernel"
	}
	return "Linux " + unix.ByteSliceToString(u.Release[:])
}

// versions are those of Debian's packages.
func versions() string {
	var list []string
	for _, p := range []string{"samba", "nfs-ganesha", "libnfs13", "openssh-server", "sshfs", "wireguard-go"} {
		if out, err := exec.Command("dpkg-query", "-W", "-f", "${Package} ${Version}", p).Output(); err == nil {
			list = append(list, string(out))
		}
	}
	return strings.Join(list, ", ")
}

func load() string {
	b, _ := os.ReadFile("/proc/loadavg")
	f := strings.Fields(string(b))
	return strings.Join(f[:min(3, len(f))], ", ")
}
