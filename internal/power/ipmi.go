package power

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/bougou/go-ipmi/pkg/client"
	"github.com/bougou/go-ipmi/pkg/command/chassis"
	"github.com/bougou/go-ipmi/pkg/types"

	"revolve/internal/secret"
)

// IPMI is a management controller (IPMI 2.0, RMCP+ over UDP).
type IPMI struct {
	Host         string
	Port         int
	User         string
	PasswordFile string // read each time, and only if nobody else may; what is in it is never told
}

const (
	answerWithin = 3 * time.Second // a controller is slow, and packets get lost
	retries      = 3
	maxPassword  = 20 // IPMI 2.0, section 22.30 (Set User Password)
)

// on tells it to power its machine on. One that is on stays so.
func (i *IPMI) on(ctx context.Context) error {
	password, err := secret.Read(i.PasswordFile)
	if err != nil {
		return fmt.Errorf("the password cannot be read: %w", err)
	}
	if len(password) > maxPassword {
		return fmt.Errorf("the password in %s is too long for a management controller: at most %d bytes", i.PasswordFile, maxPassword)
	}
	c, err := client.NewClient(i.Host, i.Port, i.User, password)
	if err != nil {
		return err
	}
	c.WithTimeout(answerWithin).WithRetry(retries)
	c.WithMaxPrivilegeLevel(types.PrivilegeLevelOperator) // the least that Chassis Control takes (IPMI 2.0, table G-1): a user of its own needs no more
	at := net.JoinHostPort(i.Host, fmt.Sprint(i.Port))
	if err := c.Connect(ctx); err != nil {
		return fmt.Errorf("its management controller at %s: %w", at, err)
	}
	defer func() { _ = c.Close(context.WithoutCancel(ctx)) }() // the controller forgets a session by itself
	if _, err := c.ChassisControl(ctx, chassis.ChassisControlPowerUp); err != nil {
		return fmt.Errorf("its management controller at %s did not power it on: %w", at, err)
	}
	return nil
}
