package agent

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"revolve/internal/cluster"
	"revolve/internal/peer"
	"revolve/internal/problem"
)

// This file is the conversation of one question and one answer: a JSON frame each way.

const (
	frameOrder  byte = 1
	frameAnswer byte = 2
)

// question asks a node, and reads its answer into ans, within ctx.
func (a *Agent) question(ctx context.Context, to cluster.NodeID, service string, q, ans any) error {
	conn, err := a.dial(ctx, to, service)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	b, err := json.Marshal(q)
	if err == nil {
		err = errors.Join(conn.Write(frameOrder, b), conn.Flush())
	}
	if err != nil {
		return err
	}
	_, payload, err := conn.Read()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(payload, ans); err != nil {
		return &problem.Problem{Op: "ask", Kind: problem.Corrupt, Subject: string(to), Err: err, Hint: "run the same version of revolve on all nodes"}
	}
	return nil
}

// readQuestion reads the question of a peer, which has so long for it.
func readQuestion(conn *peer.Conn, within time.Duration, q any) error {
	if err := conn.SetReadDeadline(time.Now().Add(within)); err != nil {
		return err
	}
	_, payload, err := conn.Read()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(payload, q); err != nil {
		return &problem.Problem{Op: "read question", Kind: problem.Corrupt, Subject: string(conn.Peer()), Err: err}
	}
	return nil
}

// answer sends what becomes of it.
func answer(conn *peer.Conn, ans any) error {
	b, err := json.Marshal(ans)
	if err != nil {
		return err
	}
	return errors.Join(conn.Write(frameAnswer, b), conn.Flush())
}
