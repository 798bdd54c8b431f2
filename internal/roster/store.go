package roster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"revolve/internal/cluster"
	"revolve/internal/config"
	"revolve/internal/problem"
)

// maxJump bounds how far a generation may lie above the own one: a node slept
// through fewer changes than that, and a lie must not use all numbers up.
const maxJump = 1 << 20

// maxKept bounds the rosters that lost and are kept: a member that lies must not fill the disk.
const maxKept = 8

const (
	fileName = "roster.json"
	initCopy = "init.yaml" // what `revolve init` and `revolve identity issue --config` saw
)

// stored is the file in the state directory. It has keys in it: mode 0600.
type stored struct {
	Roster Roster `json:"roster"`
	// Floor keeps epochs that were seen higher than in the roster: a revocation
	// survives even where two halves of a network changed the cluster at once.
	Floor map[cluster.NodeID]uint32 `json:"floor,omitempty"`
	// Out says why this node is not a member any more, "" if it is.
	Out string `json:"out,omitempty"`
	// Until is when the trial of the roster ends here, if it is tried.
	Until *until `json:"until,omitempty"`
}

// Store keeps a node's roster. It is safe for concurrent use.
type Store struct {
	path string

	mu     sync.Mutex
	has    bool
	s      stored
	cfg    *config.Config // of s.Roster, nil without one
	former *config.Config // that a trial would go back to, nil without one
	weight uint64         // its mark
	// anchored: the end of the trial was read after a boot, and is not on the disk as it counts now.
	anchored bool
}

// Open reads the roster of a state directory, if there is one.
func Open(state string) (*Store, error) {
	s := &Store{path: filepath.Join(state, fileName)}
	f, err := os.Open(s.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if errors.Is(err, fs.ErrPermission) {
		return nil, &problem.Problem{Op: "read roster", Kind: problem.Permission, Subject: s.path, Err: errors.New("not allowed"),
			Hint: "run it as root (sudo), or as the user of the agent"}
	}
	fail := func(kind problem.Kind, err error) (*Store, error) {
		return nil, &problem.Problem{Op: "read roster", Kind: kind, Subject: s.path, Err: err,
			Hint: "restore the file; or move it away and name the configuration with --config: the other nodes tell what is newer"}
	}
	if err != nil {
		return fail(problem.Unavailable, err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 2*MaxBytes))
	if err != nil {
		return fail(problem.Unavailable, err)
	}
	if err := json.Unmarshal(b, &s.s); err != nil {
		return fail(problem.Corrupt, errors.New("not a roster")) // without err: it may quote a key
	}
	if s.s.Roster.Config == "" && s.s.Roster.Generation == 0 {
		return s, nil // only that this node is out
	}
	text, err := json.Marshal(s.s.Roster)
	if err != nil {
		return fail(problem.Corrupt, err)
	}
	_, cfg, err := Decode(text)
	if err != nil {
		return fail(problem.Corrupt, err)
	}
	s.has, s.cfg, s.weight, s.former = true, cfg, s.s.Roster.Mark(), s.s.Roster.way()
	if t := s.s.Roster.Trial; t != nil && s.s.Until != nil {
		s.anchored = s.s.Until.resume(t)
	}
	return s, nil
}

// Configure is the configuration to run with. Once the cluster was changed while
// it ran (generation 1 and above) the roster's is in force, and another file is
// only warned about; before that it is the file, or without one what `join` or
// `init` left in the state directory.
func (s *Store) Configure(file string) (cfg *config.Config, warning string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.has && s.s.Roster.Generation > 0:
		if text, err := os.ReadFile(file); file != "" && (err != nil || string(text) != s.s.Roster.Config) {
			warning = fmt.Sprintf("%s is not read: the cluster's configuration is that of generation %d, and this file differs; to bring it in: revolve config apply %s",
				file, s.s.Roster.Generation, file)
		}
		return s.cfg, warning, nil
	case file == "" && s.has:
		return s.cfg, "", nil
	case file == "":
		file = filepath.Join(filepath.Dir(s.path), initCopy)
		if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
			return nil, "", &problem.Problem{Op: "read configuration", Kind: problem.NotFound, Subject: filepath.Dir(s.path), Err: errors.New("there is none in the state directory"),
				Hint: "name the cluster's configuration file with --config; or make a cluster first (revolve init), or join one (revolve join)"}
		}
	}
	if cfg, err = config.Load(file); err != nil {
		return nil, "", err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, "", &problem.Problem{Op: "read configuration", Kind: problem.Unavailable, Subject: file, Err: err}
	}
	s.s.Roster.Config, s.cfg = string(text), cfg // in force, not stored: the file is the truth
	return cfg, "", nil
}

// Current is the roster in force.
func (s *Store) Current() Roster {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s.Roster.Clone()
}

// Config is the configuration of the roster in force.
func (s *Store) Config() *config.Config {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.cfg
}

// Stamp is generation and mark of the roster in force.
func (s *Store) Stamp() (generation uint32, mark uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s.Roster.Generation, s.weight
}

// Epoch is the lowest epoch of a node's certificate that counts.
func (s *Store) Epoch(node cluster.NodeID) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.s.Roster.Epochs[node], s.s.Floor[node])
}

// Out says why this node is no member any more, "" if it is one.
func (s *Store) Out() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s.Out
}

// Leave makes durable that this node is no member any more.
func (s *Store) Leave(why string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.s
	n.Out = why
	return s.put(n)
}

// Take makes a newer roster durable and puts it in force. An older one, or the
// same, is not taken. A roster of the same generation that loses against it is
// kept beside it, as roster.json.GENERATION-MARK.
func (s *Store) Take(r *Roster, cfg *config.Config) (taken bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.s.Roster
	switch {
	case r.Generation == 0 || !r.Newer(&old):
		return false, nil
	case r.Generation-old.Generation > maxJump:
		return false, &problem.Problem{Op: "take roster", Kind: problem.Corrupt, Err: fmt.Errorf("generation %d lies too far above %d to be true", r.Generation, old.Generation)}
	}
	if err := r.Check(); err != nil {
		return false, &problem.Problem{Op: "take roster", Kind: problem.Invalid, Err: err, Hint: "make the configuration shorter"}
	}
	n := stored{Roster: r.Clone(), Floor: floor(r, s.s.Floor, old.Epochs), Until: ending(r.Trial)}
	if len(n.Floor) > maxEpochs {
		return false, &problem.Problem{Op: "take roster", Kind: problem.Corrupt, Err: errors.New("it forgets more revocations than there can be")}
	}
	if s.has && r.apart(&old) {
		if err := s.keep(&old); err != nil {
			return false, err
		}
	}
	if err := s.put(n); err != nil {
		return false, err
	}
	s.cfg = cfg
	return true, nil
}

// floor is what is known of epochs above those of a roster.
func floor(r *Roster, known ...map[cluster.NodeID]uint32) map[cluster.NodeID]uint32 {
	f := map[cluster.NodeID]uint32{}
	for _, m := range known {
		for node, e := range m {
			if e > r.Epochs[node] {
				f[node] = max(f[node], e)
			}
		}
	}
	return f
}

// Forgotten are the epochs that are known here and that the roster in force lacks:
// the half of a network that made it did not hear of a revocation.
func (s *Store) Forgotten() map[cluster.NodeID]uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return floor(&s.s.Roster, s.s.Floor)
}

// Kept are the files of rosters that lost against another half's, and that nobody has removed.
func (s *Store) Kept() ([]string, error) { return filepath.Glob(s.path + ".*-*") }

// Reset puts a roster in force whatever there was: that of a machine that joins.
func (s *Store) Reset(r *Roster, cfg *config.Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.put(stored{Roster: r.Clone(), Until: ending(r.Trial)}); err != nil {
		return err
	}
	s.cfg = cfg
	return nil
}

// keep puts a roster that lost aside, for a person.
func (s *Store) keep(r *Roster) error {
	files, err := s.Kept()
	if err != nil {
		return err
	}
	for len(files) >= maxKept { // the names begin with the generation: nothing better to go by is needed
		if err := os.Remove(files[0]); err != nil {
			return err
		}
		files = files[1:]
	}
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeDurably(fmt.Sprintf("%s.%d-%08x", s.path, r.Generation, r.Mark()>>32), b)
}

func (s *Store) put(n stored) error {
	b, err := json.MarshalIndent(n, "", "  ")
	if err != nil {
		return err
	}
	if err := writeDurably(s.path, b); err != nil {
		return &problem.Problem{Op: "write roster", Kind: problem.Unavailable, Subject: s.path, Err: err,
			Hint: "check that the state directory's disk is writable and has space"}
	}
	s.has, s.s, s.weight, s.former, s.anchored = true, n, n.Roster.Mark(), n.Roster.way(), false
	return nil
}

// writeDurably replaces a file by a rename, after its bytes are on the disk.
func writeDurably(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already if all went well
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
