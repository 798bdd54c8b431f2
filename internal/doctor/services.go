package doctor

import (
	"context"
	"fmt"
	"slices"

	"revolve/internal/config"
	"revolve/internal/control"
	"revolve/internal/service"
)

// services: what is to run them must be here; how they are, the agent knows.
func (e *examination) services(ctx context.Context) {
	for _, s := range e.Config.Services {
		e.service(ctx, s)
	}
}

func (e *examination) service(ctx context.Context, s config.Service) {
	subject, bad, why := "service "+s.Name, Warning, "it does not run here"
	if s.Required {
		bad, why = Critical, "this node leads only where no well one is heard"
	}
	if s.Unit != "" && (s.Exec == "" || service.Booted()) {
		if !service.Booted() {
			e.add(bad, subject, service.NoSystemd+": "+s.Unit, why, service.NoSystemdHint)
			return
		}
		switch load, err := service.Loaded(ctx, s.Unit); {
		case err != nil:
			e.add(Warning, subject, "systemd cannot be asked about "+s.Unit+": "+err.Error(), "", "run it as the agent's user")
		case load != "loaded":
			e.add(bad, subject, fmt.Sprintf("its unit %s is %s", s.Unit, load), why, "install the package that brings it, or correct services."+s.Name+".unit; systemctl status "+s.Unit)
			return
		}
	}
	if e.status == nil {
		e.add(OK, subject, "can be started here; how it is, only a running agent knows", "", "")
		return
	}
	i := slices.IndexFunc(e.status.Services, func(x control.Service) bool { return x.Name == s.Name })
	switch {
	case i < 0:
		e.add(Warning, subject, "the agent does not know it: it runs with another configuration", "", "restart the agent")
	case e.status.Services[i].State == "healthy":
		e.add(OK, subject, "is healthy", "", "")
	default:
		v := e.status.Services[i]
		e.add(bad, subject, fmt.Sprintf("is %s: %s", v.State, v.LastError), why, "see the agent's log"+journal(s.Unit))
	}
}

func journal(unit string) string {
	if unit == "" || !service.Booted() {
		return ""
	}
	return ", and journalctl -u " + unit
}
