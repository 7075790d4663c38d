package dimse_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"testing"

	"hilum/dimse"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
)

// discard is a handler that reads every data set and keeps nothing.
var discard = handlerFunc(func(_ context.Context, req *dimse.StoreRequest) error {
	_, err := io.Copy(io.Discard, req.Data)
	return err
})

// BenchmarkReceive moves CT images of 512 KiB over the loopback interface into
// a handler that discards them; sender and receiver share the machine.
func BenchmarkReceive(b *testing.B) {
	const size = 512 << 10
	for _, maxPDU := range []uint32{16384, 131072, 1 << 20} {
		b.Run(fmt.Sprintf("pdu=%d", maxPDU), func(b *testing.B) {
			address := listenTCP(b, &dimse.Server{Handler: discard, MaxPDULength: maxPDU})
			conn, err := newClient().Dial(b.Context(), address)
			if err != nil {
				b.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			image := make([]byte, size)
			data := bytes.NewReader(image)
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				data.Reset(image)
				if _, err := conn.Store(b.Context(), ctImage, instanceUID, explicitLE, data); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkReceiveFromNagle is the same with a sender like DCMTK: Nagle's
// algorithm on, and the header of every PDU in a write of its own. Without
// TCP_QUICKACK on our side each image costs a delayed acknowledgement of 40 ms.
func BenchmarkReceiveFromNagle(b *testing.B) {
	const size, maxPDU = 512 << 10, 16384
	conn, err := net.Dial("tcp", listenTCP(b, &dimse.Server{Handler: discard, MaxPDULength: maxPDU}))
	if err != nil {
		b.Fatal(err)
	}
	if err := conn.(*net.TCPConn).SetNoDelay(false); err != nil {
		b.Fatal(err)
	}
	p := dimsetest.NewPeer(b, conn)
	p.Associate(request())
	var pdus [][]byte
	pdus = append(pdus, dimsetest.Encode(b, dimsetest.CommandPDU(3, dimsetest.StoreRQ(1, ctImage, instanceUID))))
	for left := size; left > 0; {
		n := min(left, maxPDU-pdu.PDVHeaderLength)
		left -= n
		pdus = append(pdus, dimsetest.Encode(b, dimsetest.DataPDU(3, left == 0, make([]byte, n))))
	}
	b.SetBytes(size)
	for b.Loop() {
		for _, one := range pdus {
			p.Send(one[:pdu.HeaderLength])
			p.Send(one[pdu.HeaderLength:])
		}
		p.ExpectCommand(3)
	}
}
