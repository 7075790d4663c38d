package dimse

import (
	"context"
	"io"
	"sync"

	"hilum/dimse/pdu"
)

// operations are the operations of an acceptor that owe their peer an answer.
// Each runs on a goroutine of its own, so that the next message can be read
// while the last one is, for example, on its way to the disk.
type operations struct {
	window chan struct{}  // a place each: as many as the peer may invoke at once
	group  sync.WaitGroup // of their goroutines

	inFlight int64 // guarded by flow.mu: what they hold

	opsMu    sync.Mutex                    // guards what follows, by Message ID
	active   map[uint16]context.CancelFunc // all
	canceler map[uint16]context.CancelFunc // those that C-CANCEL may end
	fetching map[uint16]bool               // those that wait for what the peer sends: C-GET
}

// open makes as many places as the window negotiated, of which nil is the
// default of one operation at a time.
func (o *operations) open(window *pdu.AsyncOperations) {
	places := 1
	if window != nil {
		places = int(window.Invoked)
	}
	o.window = make(chan struct{}, places)
	o.active = map[uint16]context.CancelFunc{}
	o.canceler = map[uint16]context.CancelFunc{}
	o.fetching = map[uint16]bool{}
}

// wait waits until no operation runs.
func (o *operations) wait() { o.group.Wait() }

// enter registers an operation, unless one with its Message ID runs.
func (o *operations) enter(messageID uint16, cancel context.CancelFunc, fetches bool) bool {
	o.opsMu.Lock()
	defer o.opsMu.Unlock()
	if o.active[messageID] != nil {
		return false
	}
	o.active[messageID] = cancel
	if fetches {
		o.fetching[messageID] = true
	}
	return true
}

// listening says whether an operation waits for what the peer sends.
func (o *operations) listening() bool {
	o.opsMu.Lock()
	defer o.opsMu.Unlock()
	return len(o.fetching) > 0
}

// leave undoes enter.
func (o *operations) leave(messageID uint16) {
	o.opsMu.Lock()
	defer o.opsMu.Unlock()
	delete(o.active, messageID)
	delete(o.fetching, messageID)
}

// cancelable lets C-CANCEL end an operation, until the function that it returns is
// called.
func (o *operations) cancelable(messageID uint16, cancel context.CancelFunc) (end func()) {
	o.opsMu.Lock()
	defer o.opsMu.Unlock()
	o.canceler[messageID] = cancel
	return func() {
		o.opsMu.Lock()
		defer o.opsMu.Unlock()
		delete(o.canceler, messageID)
	}
}

// cancelOne is what a C-CANCEL-RQ asks for, PS3.7 9.3.2.3. One that comes when the
// operation is over means nothing.
func (o *operations) cancelOne(messageID uint16) {
	o.opsMu.Lock()
	defer o.opsMu.Unlock()
	if cancel := o.canceler[messageID]; cancel != nil {
		cancel()
	}
}

// reserve takes a place for an operation and waits until its bytes have room too. It
// returns false where it would have to wait and must not: a C-GET ends only when the
// responses of its sub-operations are read.
func (a *acceptor) reserve() (bool, error) {
	if !a.listening() {
		select {
		case a.window <- struct{}{}:
		case <-a.ctx.Done():
			return false, errStopping
		}
		if err := a.server.flow.await(a.ctx, a.address, &a.inFlight); err != nil {
			return false, errStopping
		}
		return true, nil
	}
	if !a.server.flow.hasRoom(a.address, &a.inFlight) {
		return false, nil
	}
	select {
	case a.window <- struct{}{}:
		return true, nil
	default:
		return false, nil
	}
}

// perform carries out a request beside the goroutine that reads, and returns
// when its data set has been read to the end: then comes the next message. do
// returns the status of the answer, nil for none. A peer that invokes more
// operations than were negotiated, or has more bytes in flight than the limits
// allow, waits: no more is read from it before there is room. Beside a C-GET it is
// refused instead.
func (a *acceptor) perform(pc *presentation, rq *command, data *dataStream, do func(ctx context.Context) *StatusError) error {
	if admitted, err := a.reserve(); err != nil {
		return err
	} else if !admitted {
		a.log.Warn("operation refused: there is no room for it beside a C-GET", "message", rq.messageID.value)
		return a.answer(pc, rq, data, &StatusError{Status: StatusResourceLimitation, Comment: "too many operations beside C-GET"})
	}
	id := rq.messageID.value
	ctx, cancel := context.WithCancel(a.ctx)
	if !a.enter(id, cancel, rq.field.value == commandGetRQ) {
		cancel()
		<-a.window
		a.log.Warn("operation refused: its Message ID is that of one which runs", "message", id)
		return a.answer(pc, rq, data, &StatusError{Status: StatusDuplicateInvocation})
	}
	free := sync.OnceFunc(func() {
		a.leave(id)
		<-a.window
	})
	held := a.server.flow.begin(a.address, &a.inFlight)
	data.count = held.count
	data.done = make(chan struct{})
	if data.err != nil { // there is no data set
		close(data.done)
	}
	a.operationBegun()
	a.group.Go(func() {
		defer a.operationEnded()
		defer cancel()
		defer held.end()
		defer free()
		defer func() {
			if v := recover(); v != nil {
				a.logPanic(v)
				a.fail(errPanic)
				if data.err == nil {
					data.end(errPanic)
				}
			}
		}()
		status := do(ctx)
		broken := data.drain() != nil // the goroutine that reads has the error too
		// Before the peer has the answer: it may use the Message ID and the place
		// again at once.
		free()
		if broken || status == nil {
			return
		}
		if err := a.respond(pc, rq, status); err != nil {
			a.fail(err)
		}
	})
	<-data.done
	if data.err != io.EOF {
		return data.err
	}
	return nil
}
