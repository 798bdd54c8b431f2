// Package mirror keeps every volume the same on every node, within
// milliseconds: the master's changes are watched, journaled and streamed to all
// standbys, which apply them durably and atomically.
//
// An Engine holds the node's volumes. It is told who leads (SetRole) and turns
// the direction accordingly: as master it first takes what survivors have above
// its own position, then serves streams; as standby it follows. It never
// decides who leads, and accepts nothing from a reign older than one it has
// seen (promise P3).
//
//	e, err := mirror.New(options)
//	go e.Run(ctx); e.SetRole(role); e.Handle(ctx, conn)
package mirror

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"revolve/internal/cluster"
	"revolve/internal/mirror/apply"
	"revolve/internal/mirror/send"
	"revolve/internal/mirror/watch"
	"revolve/internal/mirror/wire"
	"revolve/internal/problem"
)

// VolumeConfig is one volume of this node.
type VolumeConfig struct {
	Name     cluster.VolumeID
	Path     string
	Exclude  []string
	TrashAge time.Duration
	// TrashEvery and TrashQuota: zero is what promise P6 says.
	TrashEvery time.Duration
	TrashQuota apply.Quota
	SyncFull   bool // a standby shows nothing before its contents are durable
}

// Terms is the durable memory of the highest term seen.
type Terms interface {
	Seen() cluster.Term
	// Accept makes t durable as seen before it returns; it refuses a term older than one seen.
	Accept(t cluster.Term) error
}

// Options say what an Engine works with.
type Options struct {
	Node    cluster.NodeID
	State   string // directory; the journals live below it
	Volumes []VolumeConfig
	Terms   Terms
	// Dial connects to a node for a service over the best link.
	Dial func(ctx context.Context, to cluster.NodeID, service string) (Conn, error)
	// Changed is told of what changed in a volume here, whoever wrote it; "." if anything may have. It must not block. May be nil.
	Changed func(volume cluster.VolumeID, paths ...string)
	// Bandwidth is how many bytes a second may be sent to standbys over a link now; 0: no limit. May be nil.
	Bandwidth func(link cluster.LinkID, now time.Time) int64
	// Watch tells what changes below a root; nil: the kernel (watch.Open).
	Watch func(o watch.Options) (Watcher, error)
	// Stamp is the clock by which inodes are stamped; nil: time.Now.
	Stamp func() time.Time
	// Proc is where the files are looked for that processes have open; "": /proc.
	Proc string
	Log  *slog.Logger
}

// Conn is what an Engine needs of a proven connection: peer.Conn says what each does.
type Conn interface {
	Peer() cluster.NodeID
	Service() string
	Link() cluster.LinkID
	Read() (kind byte, payload []byte, err error)
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
	Buffered() int
	Patient(ctx context.Context) error
	Write(kind byte, parts ...[]byte) error
	Flush() error
	Close() error
}

// Watcher is what an Engine needs of one: watch.Watcher says what each does.
type Watcher interface {
	Run(ctx context.Context, emit func([]watch.Event) error) error
	Drain(ctx context.Context) error
	Backend() watch.Backend
	OwnUnknown() bool
	Await(on bool)
	Overlook(dir string) bool
	Stats() watch.Stats
	Close() error
}

func (o *Options) watch(w watch.Options) (Watcher, error) {
	if o.Watch != nil {
		return o.Watch(w)
	}
	k, err := watch.Open(w)
	if err != nil {
		return nil, err // not a nil watcher in an interface
	}
	return k, nil
}

// Role is what the election decided.
type Role struct {
	Reign     cluster.Reign // of Master; zero if there is none
	Master    cluster.NodeID
	Lead      bool             // this node is the master
	Survivors []cluster.NodeID // Lead: nodes that are alive and may hold more
	Rejoin    bool             // Lead: nobody made sure that this node was fit to lead; where a survivor's reign is above every one known here, its own tail is set aside first
}

func (r Role) equal(o Role) bool {
	return r.Reign == o.Reign && r.Master == o.Master && r.Lead == o.Lead
}

// Engine mirrors the volumes of one node.
type Engine struct {
	o       Options
	volumes []*volume

	mu     sync.Mutex
	role   Role
	pacers map[cluster.LinkID]*send.Pacer
}

// New prepares the volumes; their directories are opened when Run starts.
func New(o Options) (*Engine, error) {
	e := &Engine{o: o, pacers: map[cluster.LinkID]*send.Pacer{}}
	for _, c := range o.Volumes {
		v, err := newVolume(e, c)
		if err != nil {
			return nil, err
		}
		e.volumes = append(e.volumes, v)
	}
	return e, nil
}

// Run mirrors until ctx ends. A volume that fails (its disk is gone, its root
// was emptied) is retried and reported; it never takes the others down.
func (e *Engine) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, v := range e.volumes {
		g.Go(func() error { return v.supervise(ctx) })
	}
	return g.Wait()
}

// SetRole turns the direction. It never blocks; the latest role wins.
func (e *Engine) SetRole(r Role) {
	e.mu.Lock()
	same := e.role.equal(r)
	e.role = r
	e.mu.Unlock()
	if same {
		return
	}
	for _, v := range e.volumes {
		v.turn()
	}
}

func (e *Engine) currentRole() Role {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.role
}

// pacer is the one of a link, which all volumes and standbys share; nil if no link has a limit.
func (e *Engine) pacer(link cluster.LinkID) *send.Pacer {
	if e.o.Bandwidth == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	p := e.pacers[link]
	if p == nil {
		p = send.NewPacer(func(now time.Time) int64 { return e.o.Bandwidth(link, now) })
		e.pacers[link] = p
	}
	return p
}

// helloTimeout bounds the wait for a first frame.
const helloTimeout = 5 * time.Second

// Services are the names of the services that Handle serves.
func Services() []string {
	return []string{wire.ServiceFollow, wire.ServiceBulk, wire.ServicePull, wire.ServiceVerify}
}

// Handle serves one incoming connection until it ends.
func (e *Engine) Handle(ctx context.Context, conn Conn) error {
	defer conn.Close()
	var hello wire.Hello
	if err := readJSON(conn, wire.FrameHello, &hello); err != nil {
		return err
	}
	v := e.volume(hello.Volume)
	if v == nil {
		return refuse(conn, problem.NotFound, fmt.Sprintf("volume %q is not in the configuration here", hello.Volume), 0)
	}
	switch conn.Service() {
	case wire.ServiceFollow:
		return patiently(ctx, conn, func(ctx context.Context) error { return v.serveFollower(ctx, conn, hello) })
	case wire.ServiceBulk:
		return patiently(ctx, conn, func(ctx context.Context) error { return v.serveBulk(ctx, conn) })
	case wire.ServicePull:
		return patiently(ctx, conn, func(ctx context.Context) error { return v.servePull(ctx, conn, hello) })
	case wire.ServiceVerify:
		return v.serveVerify(ctx, conn, hello)
	}
	return refuse(conn, problem.NotFound, "unknown service", 0)
}

// patiently serves somebody whose disk may be busy for seconds: it reads nothing meanwhile, its kernel answers
// all the same, and what would be lost with the connection begins anew, on a slow disk for ever.
func patiently(ctx context.Context, conn Conn, serve func(context.Context) error) error {
	ctx, done := context.WithCancel(ctx)
	defer done()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return conn.Patient(ctx) })
	g.Go(func() error {
		defer done()
		return serve(ctx)
	})
	return g.Wait()
}

func (e *Engine) volume(name cluster.VolumeID) *volume {
	i := slices.IndexFunc(e.volumes, func(v *volume) bool { return v.c.Name == name })
	if i < 0 {
		return nil
	}
	return e.volumes[i]
}

// VolumePath is the directory of a volume, "" if there is none of that name.
func (e *Engine) VolumePath(name cluster.VolumeID) string {
	if v := e.volume(name); v != nil {
		return v.c.Path
	}
	return ""
}

// Flush returns when a standby has everything that was written before the call:
// the barrier of a planned switch and of `sync --wait`. An empty name means
// every standby that is in-sync.
func (e *Engine) Flush(ctx context.Context, to cluster.NodeID) error {
	g, ctx := errgroup.WithContext(ctx)
	for _, v := range e.volumes {
		g.Go(func() error { return v.flush(ctx, to) })
	}
	return g.Wait()
}

// Fresh is how far this node has come, for the election: the newest term and
// the sum of the sequences in it.
func (e *Engine) Fresh() cluster.Position {
	var sum cluster.Position
	for _, v := range e.volumes {
		p, ok := v.position()
		switch {
		case !ok:
		case p.Term > sum.Term:
			sum = p
		case p.Term == sum.Term:
			sum.Seq += p.Seq
		}
	}
	return sum
}

func (e *Engine) journalDir(name cluster.VolumeID) string {
	return filepath.Join(e.o.State, "journal", string(name))
}

func readJSON(conn Conn, want byte, into any) error {
	if err := conn.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return err
	}
	return readJSONNow(conn, want, into)
}

// readJSONNow is readJSON within the deadline that is set already.
func readJSONNow(conn Conn, want byte, into any) error {
	kind, payload, err := conn.Read()
	if err != nil {
		return err
	}
	if kind == wire.FrameRefuse {
		var r wire.Refuse
		if err := json.Unmarshal(payload, &r); err != nil {
			return err
		}
		return &problem.Problem{Op: "follow", Kind: problem.Kind(r.Kind), Subject: string(conn.Peer()), Err: errors.New(r.Reason)}
	}
	if kind != want {
		return &problem.Problem{Op: "read frame", Kind: problem.Corrupt, Subject: string(conn.Peer()), Err: fmt.Errorf("frame %d instead of %d", kind, want)}
	}
	if err := json.Unmarshal(payload, into); err != nil {
		return &problem.Problem{Op: "read frame", Kind: problem.Corrupt, Subject: string(conn.Peer()), Err: err}
	}
	return conn.SetReadDeadline(time.Time{})
}

func writeJSON(conn Conn, kind byte, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return errors.Join(conn.Write(kind, b), conn.Flush())
}

func refuse(conn Conn, kind problem.Kind, reason string, seen cluster.Term) error {
	err := writeJSON(conn, wire.FrameRefuse, wire.Refuse{Kind: uint8(kind), Reason: reason, Term: seen})
	return errors.Join(&problem.Problem{Op: "serve " + conn.Service(), Kind: kind, Subject: string(conn.Peer()), Err: errors.New(reason)}, err)
}
