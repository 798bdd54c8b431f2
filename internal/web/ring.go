package web

import (
	"fmt"
	"math"
	"strings"

	"revolve/internal/cluster"
	"revolve/internal/control"
)

// ring is the face of the cluster: the nodes on a circle, the master on top, and from it to
// every standby an arc in the direction of replication. When the roles turn, so does the ring.
type ring struct {
	Radius, Disc float64
	Half, Halo   float64 // of the mark in a disc, of the circle around the master
	Small        bool    // there are many nodes
	Seats        []seat
	Flows        []flow
	Center       [3]string
	Says         string // the same in words
}

// seat is a node on the ring.
type seat struct {
	ID, Name string // Name is cut to fit
	Angle    float64
	Master   bool
	Mark     string
	Below    string  // a word or two under the name
	Beside   float64 // how far right of the middle of the disc its name stands,
	Label    float64 // how far below,
	Under    float64 // and how far below Below does
	Anchor   string  // which end of the text is there: start, middle, end
}

// flow is the replication to one standby.
type flow struct {
	Path, Head string
	Kind       string // live, late, unknown, none
}

const (
	ringRadius = 150
	crowd      = 10 // more nodes than this leave little room in the middle
	stepAngle  = 64 // samples of an arc: its corners are not seen
)

func ringOf(st *control.Status) ring {
	n := len(st.Nodes)
	r := ring{Radius: ringRadius, Disc: 29}
	switch {
	case n > crowd:
		r.Disc, r.Small = 15, true
	case n > 6:
		r.Disc, r.Small = 21, true
	}
	r.Half, r.Halo = r.Disc/2, r.Disc+5
	first := 0
	for i, x := range st.Nodes {
		if string(x.Name) == st.Master {
			first = i
		}
	}
	var says []string
	for i, x := range st.Nodes { // in their own order, so that a seat stays the same when the ring turns
		k := (i - first + n) % n
		s := seat{ID: string(x.Name), Name: cut(string(x.Name), map[bool]int{false: 11, true: 7}[r.Small]), Angle: 360 * float64(k) / float64(n), Mark: nodeMark(x.State), Below: orUnknown(x.State)}
		s.label(r.Disc, r.Small)
		if string(x.Name) == st.Master {
			s.Master, s.Below = true, "master"
		} else if x.State == "alive" || x.State == "suspect" {
			state, lag := worstOf(st, x.Name)
			if s.Below = seatText(state, lag); r.Small {
				s.Below = strings.TrimSuffix(s.Below, " behind")
			}
			if s.Mark == good && state != "" {
				s.Mark = standbyMark(state)
			}
			if state == "" { // no volume tells of it
				s.Below = orUnknown(x.Role)
			}
			if f := arc(&r, k, n, flowKind(st, state)); f.Kind != "none" {
				r.Flows = append(r.Flows, f)
			}
		}
		r.Seats = append(r.Seats, s)
		says = append(says, fmt.Sprintf("%s: %s", x.Name, s.Below))
	}
	r.Center = center(st)
	r.Says = headline(st) + " " + strings.Join(says, "; ") + "."
	return r
}

// label puts the name where it covers no arc: above the master, below the others and a little outside; beside them where there are many.
func (s *seat) label(disc float64, small bool) {
	side := math.Sin(s.Angle * math.Pi / 180)
	line := map[bool]float64{false: 17, true: 13}[small]
	s.Anchor, s.Beside, s.Label = "middle", 16*side, disc+5+line
	switch {
	case s.Angle == 0:
		s.Label = -disc - 11 - line
	case small && math.Abs(side) > 0.1:
		s.Anchor, s.Beside, s.Label = "start", disc+7, -2
		if side < 0 {
			s.Anchor, s.Beside = "end", -disc-7
		}
	}
	s.Under = s.Label + line
}

// center is what clients know: the address, and who answers there.
func center(st *control.Status) (c [3]string) {
	if len(st.VIPs) == 0 {
		return [3]string{"", "no address", "the configuration names none"}
	}
	address, _, _ := strings.Cut(st.VIPs[0].Address, "/")
	c = [3]string{"clients ask", cut(address, 18), "nobody answers"}
	switch st.VIPs[0].Holder {
	case control.Unknown, "":
		c[2] = "who answers is unknown"
	case "none":
	default:
		if c[2] = fmt.Sprintf("term %d", st.Term); len(st.Nodes) > crowd {
			break // there is no room for more
		}
		c[2] = fmt.Sprintf("%s answers · term %d", cut(st.VIPs[0].Holder, 12), st.Term)
	}
	return c
}

// worstOf is the worst state and the largest lag of a standby, over all volumes.
func worstOf(st *control.Status, node cluster.NodeID) (state string, lag control.Count) {
	rank := map[string]int{"in-sync": 1, "lagging": 2, "catching-up": 3}
	for _, v := range st.Volumes {
		for _, sb := range v.Standbys {
			if sb.Node != node {
				continue
			}
			if rank[sb.State] == 0 || sb.LagMS < 0 && sb.State == "in-sync" {
				return control.Unknown, -1
			}
			if rank[sb.State] > rank[state] {
				state = sb.State
			}
			if lag = max(lag, sb.LagMS); sb.LagMS < 0 {
				lag = -1
			}
		}
	}
	return state, lag
}

func seatText(state string, lag control.Count) string {
	switch {
	case state == control.Unknown || lag < 0:
		return state
	case state == "in-sync":
		return lagText(lag) + " behind"
	}
	return state + ", " + lagText(lag)
}

func flowKind(st *control.Status, state string) string {
	switch {
	case state == "" || st.Master == "none" || st.Master == control.Unknown || st.Master == "":
		return "none"
	case state == "in-sync":
		return "live"
	case standbyMark(state) == warn:
		return "late"
	}
	return "unknown"
}

// arc is the way from the master, on top, to the k-th of n seats. It passes inside of the seats
// between, each way on a track of its own, clockwise to the right half and the other way to the left.
func arc(r *ring, k, n int, kind string) flow {
	angle, between := 2*math.Pi*float64(k)/float64(n), k-1
	if 2*k > n {
		angle, between = angle-2*math.Pi, n-k-1
	}
	depth := 0.0
	if between > 0 {
		depth = r.Disc + 10 + float64(between-1)*map[bool]float64{false: 13, true: 8}[r.Small]
	}
	end := point{r.Radius * math.Sin(angle), -r.Radius * math.Cos(angle)}
	begin := point{0, -r.Radius}
	var way []point
	for i := range stepAngle + 1 {
		u := float64(i) / stepAngle
		radius := r.Radius - depth*math.Pow(math.Sin(math.Pi*u), 0.6)
		p := point{radius * math.Sin(angle*u), -radius * math.Cos(angle*u)}
		if p.from(begin) > r.Disc+5 && p.from(end) > r.Disc+12 {
			way = append(way, p)
		}
	}
	if len(way) < 2 {
		return flow{Kind: "none"}
	}
	var path strings.Builder
	for i, p := range way {
		fmt.Fprintf(&path, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[i == 0], p.x, p.y)
	}
	last := way[len(way)-1]
	return flow{Path: path.String(), Head: head(last, end), Kind: kind}
}

type point struct{ x, y float64 }

func (p point) from(o point) float64 { return math.Hypot(p.x-o.x, p.y-o.y) }

// head is the head of an arrow at a point, towards the middle of the disc.
func head(at, to point) string {
	d := at.from(to)
	ux, uy := (to.x-at.x)/d, (to.y-at.y)/d
	const length, half = 9, 5
	return fmt.Sprintf("M%.1f %.1fL%.1f %.1fL%.1f %.1fZ", at.x+ux*length, at.y+uy*length, at.x-uy*half, at.y+ux*half, at.x+uy*half, at.y-ux*half)
}
