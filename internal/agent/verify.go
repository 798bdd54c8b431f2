package agent

import (
	"context"
	"fmt"
	"strconv"

	"revolve/internal/control"
	"revolve/internal/mirror"
	"revolve/internal/problem"
)

// Verify starts proofs, stops them, or looks how they stand.
func (b backend) Verify(_ context.Context, q control.VerifyQuery) (control.VerifyAnswer, error) {
	answer := control.VerifyAnswer{Proofs: []control.Proof{}}
	volumes, err := b.a.volumesOf(control.KeptQuery{Volume: q.Volume})
	if err != nil {
		return answer, err
	}
	if q.Start || q.Stop {
		b.Ordered("verify")
	}
	for _, v := range volumes {
		switch {
		case q.Stop:
			b.a.engine.StopProof(v)
		case q.Start:
			err := b.a.engine.Prove(v, mirror.Proving{Rate: q.Rate, Repair: q.Repair, Restart: q.Restart, TrustMaster: q.TrustMaster})
			if err != nil && !(q.Volume == "" && problem.KindOf(err) == problem.Conflict) {
				return answer, err
			}
		}
		if p, ok := b.a.engine.ProofOf(v); ok {
			out := proofOf(p)
			out.Volume = v
			answer.Proofs = append(answer.Proofs, out)
		}
	}
	return answer, nil
}

func proofOf(p mirror.Proof) control.Proof {
	out := control.Proof{Running: p.Running, Complete: !p.Running && !p.Ended.IsZero(), Error: p.Error, Began: p.Began, Ended: p.Ended, Position: p.Position, Rate: p.Rate,
		Files: p.Files, Bytes: p.Bytes, At: string(p.Dir), Nodes: []control.ProofNode{}, Findings: []control.ProofFinding{}}
	for _, n := range p.NodesInOrder() {
		st := p.Nodes[n]
		x := control.ProofNode{Node: n, Result: "running", Differs: st.Differs, Repaired: st.Repaired, Unproven: st.Unproven, Away: st.Away, Proven: st.Proven}
		switch {
		case st.Differs > st.Repaired:
			x.Result = "differs"
		case st.Away != "":
			x.Result = "away"
		case p.Ended.IsZero():
		case st.Unproven > 0:
			x.Result = "unproven"
		case st.Repaired > 0:
			x.Result = "repaired"
		default:
			x.Result = "equal"
		}
		out.Nodes = append(out.Nodes, x)
	}
	for _, f := range p.Findings {
		out.Findings = append(out.Findings, control.ProofFinding{Path: string(f.Path), Name: f.Path, Node: f.Node, What: f.What, Bad: f.Bad, Right: f.Right, At: f.At, Repaired: f.Repaired, Why: f.Why})
	}
	for _, name := range p.Sample {
		out.Changing = append(out.Changing, strconv.Quote(string(name)))
	}
	return out
}

// proofStatus is what the status says of a volume's proof.
func proofStatus(p *mirror.Proof) *control.ProofStatus {
	if p == nil {
		return nil
	}
	return &control.ProofStatus{Running: p.Running, Began: p.Began, Ended: p.Ended, Files: p.Files, Bytes: p.Bytes, Differences: p.Differences()}
}

// proofReasons is what is wrong by the last proofs.
func proofReasons(volumes []control.Volume) (reasons []string) {
	for _, v := range volumes {
		if v.Proof != nil && v.Proof.Differences > 0 && v.State == "leading" {
			reasons = append(reasons, fmt.Sprintf("volume %s: a proof found %d differences; see `revolve verify --show %s`; repair: revolve verify --repair %s", v.Name, v.Proof.Differences, v.Name, v.Name))
		}
	}
	return reasons
}
