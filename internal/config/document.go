package config

// The document types mirror the file as it is written. The reader fills them
// from the syntax tree and the JSON Schema is generated from them, so that the
// two cannot disagree about a key or a type. What a value must look like beyond
// its type is said twice, in schema.go for editors and in check.go for people
// (with lines and hints); a test feeds both the same mistakes.

type (
	nameText     string // of a cluster, node, link, volume
	addrText     string
	prefixText   string
	pathText     string
	patternText  string
	durationText string
	quotaText    string
	macText      string
	engineText   string
	profileText  string
	modeText     string
	policyText   string
	levelText    string
	hostText     string
	neighborText string
	spanText     string
	windowText   string
	rateText     string
	syncText     string
	checkText    string
	listenText   string
	siteText     string
	sourceText   string
	whenText     string
	missedText   string
	groupText    string // a machine of libvirt, or a group of them
)

type document struct {
	Cluster   nameText                     `json:"cluster" jsonschema:"Name of the cluster; part of every certificate, so that two clusters never mix."`
	Port      int                          `json:"port,omitempty" jsonschema:"The one port of every node: TCP (mutual TLS) and UDP (heartbeats)."`
	Nodes     map[string]nodeDocument      `json:"nodes" jsonschema:"The machines of the cluster, by name."`
	VIPs      []vipDocument                `json:"vips,omitempty" jsonschema:"The floating addresses; the master holds them all."`
	Failover  failoverDocument             `json:"failover,omitzero" jsonschema:"How the master is chosen."`
	Bandwidth map[string]bandwidthDocument `json:"bandwidth,omitempty" jsonschema:"How much each node sends to standbys over a link, by the link's name; without it as much as the link carries."`
	Volumes   map[string]volumeDocument    `json:"volumes,omitempty" jsonschema:"Directory trees kept the same on every node, by name."`
	Services  map[string]serviceDocument   `json:"services,omitempty" jsonschema:"Daemons that run on every node, by name."`
	Web       webDocument                  `json:"web,omitzero" jsonschema:"The status page, over plain HTTP; there is none if it is left out."`
	VMs       map[string]vmDocument        `json:"vms,omitempty" jsonschema:"Virtual machines, by their libvirt name."`
	VMStorage pathText                     `json:"vm_storage,omitempty" jsonschema:"Directory of the points of virtual machines, on every node; best on the XFS or btrfs of their images."`
	Schedules map[string]scheduleDocument  `json:"schedules,omitempty" jsonschema:"When machines are copied by themselves, by a name of each schedule."`
	Alarms    []alarmDocument              `json:"alarms,omitempty" jsonschema:"Where alarms go: each element is one place."`
	AlarmTest alarmTestDocument            `json:"alarm_test,omitzero" jsonschema:"Whether a test alarm is sent by itself; it is not if it is left out."`
}

type nodeDocument struct {
	Links     map[string]addrText `json:"links" jsonschema:"The node's address on every link it has; heartbeats go over all of them."`
	Priority  int                 `json:"priority,omitempty" jsonschema:"Among equally fit nodes the one with the highest priority leads."`
	Candidate bool                `json:"candidate,omitempty" jsonschema:"Whether this node may become master."`
	Paths     map[string]pathText `json:"paths,omitempty" jsonschema:"Where a volume lives on this node, if elsewhere than on the others."`
	Power     powerDocument       `json:"power,omitzero" jsonschema:"Whether the node is expected to be on."`
	Source    sourceText          `json:"source,omitempty" jsonschema:"Where the node takes a changed configuration from. cluster: from revolve config apply. file: only if its own file (--config) says the same, for machines that NixOS or Ansible configures."`
}

type powerDocument struct {
	Mode modeText     `json:"mode,omitempty" jsonschema:"on-demand: off is a normal state."`
	Wake macText      `json:"wake,omitempty" jsonschema:"It is woken by Wake-on-LAN: the MAC address of the card that listens."`
	On   string       `json:"on,omitempty" jsonschema:"It is woken by a command for sh -c, run on the node that wakes it."`
	IPMI ipmiDocument `json:"ipmi,omitzero" jsonschema:"It is woken by its management controller."`
	Off  string       `json:"off,omitempty" jsonschema:"How it powers itself off, for sh -c; systemctl poweroff if it is left out."`
}

type ipmiDocument struct {
	Address      hostText `json:"address" jsonschema:"Of the controller: 10.77.1.12, or with a port 10.77.1.12:623."`
	User         string   `json:"user" jsonschema:"Who may power it on there."`
	PasswordFile pathText `json:"password_file" jsonschema:"The file with the password, on every node that is to wake it."`
}

type vipDocument struct {
	Address prefixText `json:"address" jsonschema:"The address with the length of its network: 10.77.0.200/24."`
	Link    nameText   `json:"link" jsonschema:"The link whose interface carries it."`
}

type failoverDocument struct {
	Engine    engineText        `json:"engine,omitempty" jsonschema:"builtin: our own election. external: keepalived, Pacemaker or another places the floating addresses, and whoever holds them leads."`
	Eligible  pathText          `json:"eligible,omitempty" jsonschema:"With engine external: the file that tells the engine how fit the node is (a track_file of keepalived); without it, eligible in the state directory."`
	Profile   profileText       `json:"profile,omitempty" jsonschema:"How soon silence counts as death: default 200 ms, fast 40 ms, patient 1500 ms."`
	Isolation policyText        `json:"isolation,omitempty" jsonschema:"What a node does that hears no other one. keep: it serves, because the last one left must. release: it does not, unless the witness or a reference answers."`
	Witness   witnessDocument   `json:"witness,omitzero" jsonschema:"A third machine that lets one of two nodes lead that cannot hear each other (revolve witness)."`
	Reference []neighborText    `json:"reference,omitempty" jsonschema:"Addresses of machines that are no nodes, on the links of the floating addresses: the router. With isolation: release and no witness, one of them must answer a node that hears no other one."`
	Rehearsal rehearsalDocument `json:"rehearsal,omitzero" jsonschema:"Whether a failover is rehearsed by itself; it is not if it is left out."`
	Failback  failbackDocument  `json:"failback,omitzero" jsonschema:"Whether the addresses ever move back by themselves; they do not if it is left out."`
}

type failbackDocument struct {
	Window windowText `json:"window" jsonschema:"When the addresses may move back to the in-sync node of highest priority, by a planned switch, in its local time: Sun 03:00-05:00, Mon-Fri 22:00-06:00, daily 03:00-04:00."`
}

type rehearsalDocument struct {
	Window windowText `json:"window" jsonschema:"When the master may move the addresses to the best standby and back, once in every opening, in its local time: Sun 03:00-05:00, Mon-Fri 22:00-06:00, daily 03:00-04:00."`
}

type bandwidthDocument struct {
	Rate    rateText             `json:"rate,omitempty" jsonschema:"How much in a second, of all volumes together: 500KiB, 10MiB, 1GiB, or none for no limit."`
	Windows []rateWindowDocument `json:"windows,omitempty" jsonschema:"Other rates at some times; the first window that is open decides."`
}

type rateWindowDocument struct {
	When windowText `json:"when" jsonschema:"In the sending node's local time: Mon-Fri 08:00-18:00, Sun 03:00-05:00, daily 22:00-06:00."`
	Rate rateText   `json:"rate" jsonschema:"How much in a second then, or none for no limit."`
}

type witnessDocument struct {
	Address hostText `json:"address" jsonschema:"Where it listens, UDP: 10.77.0.250 or 10.77.0.250:7374."`
	KeyFile pathText `json:"key_file" jsonschema:"The file with its key, on every node: made by revolve witness --make-key."`
}

type volumeDocument struct {
	Path     pathText      `json:"path" jsonschema:"The directory, absolute."`
	Exclude  []patternText `json:"exclude,omitempty" jsonschema:"What is not mirrored, in the syntax of gitignore: the last pattern that matches decides."`
	Trash    trashDocument `json:"trash,omitzero" jsonschema:"What standbys keep of what replication overwrote or deleted: how long, in days, hours, minutes (7d, 12h, 1d12h), or age, quota and every."`
	Sync     syncText      `json:"sync,omitempty" jsonschema:"When standbys show what came: group: new files at once, made durable together and acknowledged then; full: nothing before its contents are durable."`
	OnChange string        `json:"on_change,omitempty" jsonschema:"A command for sh -c, run on every node after files of the volume changed there; the changed paths are its input, each ended by a zero byte."`
}

// trashDocument may be written as its age alone: trash: 7d.
type trashDocument struct {
	Age   durationText `json:"age,omitempty" jsonschema:"How long: 7d, 12h, 1d12h."`
	Quota quotaText    `json:"quota,omitempty" jsonschema:"How much: a share of the file system (5%) or a size (500MiB, 10GiB)."`
	Every durationText `json:"every,omitempty" jsonschema:"At most one version of a path in this time: 10m."`
}

type serviceDocument struct {
	Unit     string    `json:"unit,omitempty" jsonschema:"A systemd unit that the agent starts and watches: named.service."`
	Exec     string    `json:"exec,omitempty" jsonschema:"A command for sh -c that stays in the foreground; the agent runs it where systemd does not, or if there is no unit."`
	Check    checkText `json:"check,omitempty" jsonschema:"How to ask whether it is well: dns://HOST:PORT/NAME, tcp://HOST:PORT, http://HOST/PATH, https://HOST/PATH, exec:COMMAND."`
	Status   int       `json:"status,omitempty" jsonschema:"The one HTTP status that is well; without it, every one below 400 is."`
	Required bool      `json:"required,omitempty" jsonschema:"A node on which it is ill does not lead while another can."`
	Interval spanText  `json:"interval,omitempty" jsonschema:"Between two checks: 500ms, 2s, 1m."`
	Timeout  spanText  `json:"timeout,omitempty" jsonschema:"How long a check may take."`
	Rise     int       `json:"rise,omitempty" jsonschema:"So many good checks in a row make it healthy."`
	Fall     int       `json:"fall,omitempty" jsonschema:"So many bad checks in a row make it ill."`
}

type webDocument struct {
	Listen []listenText `json:"listen" jsonschema:"Where every node serves it: :8480 on all addresses, floating ones included; 127.0.0.1:8480 or [fd77::200]:8480 on one."`
	Names  []siteText   `json:"names,omitempty" jsonschema:"DNS names by which browsers may ask for it, beside addresses, bare host names and names under .lan, .local, .internal and .home.arpa: that of a proxy in front."`
}

type vmDocument struct {
	Critical    bool         `json:"critical,omitempty" jsonschema:"Schedules may be for the critical ones, and copy them first."`
	Nodes       []nameText   `json:"nodes,omitempty" jsonschema:"The nodes that get its points; all if none is named."`
	Consistency levelText    `json:"consistency,omitempty" jsonschema:"How the machine is held for a point: live, suspend, freeze (guest agent) or shutdown."`
	Keep        keepDocument `json:"keep,omitzero" jsonschema:"Which points stay, on every node; all if nothing is said."`
}

type keepDocument struct {
	Last    int `json:"last,omitempty" jsonschema:"So many of the newest."`
	Daily   int `json:"daily,omitempty" jsonschema:"The newest of each of so many days."`
	Weekly  int `json:"weekly,omitempty" jsonschema:"The newest of each of so many weeks."`
	Monthly int `json:"monthly,omitempty" jsonschema:"The newest of each of so many months."`
}

type scheduleDocument struct {
	When   whenText     `json:"when" jsonschema:"In the home's local time: Sun 03:00, daily 01:00, with an end Mon-Fri 22:00-06:00; or every 15m, counted from midnight in UTC."`
	Finish durationText `json:"finish,omitempty" jsonschema:"What is not finished so long after it began is paused, and goes on in the next run: 3h."`
	VMs    []groupText  `json:"vms,omitempty" jsonschema:"The machines: all, critical, or their names; all if it is left out."`
	Wake   bool         `json:"wake,omitempty" jsonschema:"Nodes on demand that are off are woken for it, and powered off again when they have the points."`
	Missed missedText   `json:"missed,omitempty" jsonschema:"What becomes of a run that was missed because its home was off. soon: it is made up for as soon as the home is there. wait: in the next window, as always where the machine is shut down for its copy."`
}
