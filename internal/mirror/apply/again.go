package apply

import "revolve/internal/mirror/reconcile"

// WhyDamaged: what a proof found to be other than the master's, under the same size and time or not.
const WhyDamaged = "damaged"

// ComeAgain has paths come again from the source. Those in keep are kept aside
// first: their size and time may be right and their bytes wrong, so that no
// quick check would send them. The debts are durable before anything moves.
func (a *Applier) ComeAgain(set *Set, keep, come []string) error {
	var debts []reconcile.Debt
	for _, rel := range append(keep[:len(keep):len(keep)], come...) {
		debts = append(debts, reconcile.Debt{Path: rel, Tree: true})
	}
	if err := a.Owe(debts); err != nil {
		return err
	}
	for _, rel := range keep {
		a.keepDirTime(rel)
		if err := set.KeepAway(rel); err != nil {
			return err
		}
		a.touchGone(rel)
	}
	for _, d := range debts {
		a.missed = append(a.missed, []byte(d.Path))
	}
	return nil
}

// Asking reports whether the source is still to be asked for something.
func (a *Applier) Asking() bool { return len(a.missed)+len(a.names) > 0 }
