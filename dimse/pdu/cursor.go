package pdu

import (
	"encoding/binary"
	"strings"
)

// cursor walks bytes that are really there. Every method fails, and moves
// nothing, when fewer bytes are left than it needs.
type cursor struct{ b []byte }

func (c *cursor) empty() bool { return len(c.b) == 0 }

func (c *cursor) bytes(n int, what string) ([]byte, error) {
	if n > len(c.b) {
		return nil, invalid("%s needs %d bytes, %d are left", what, n, len(c.b))
	}
	v := c.b[:n:n]
	c.b = c.b[n:]
	return v, nil
}

func (c *cursor) u16(what string) (uint16, error) {
	v, err := c.bytes(2, what)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint16(v), nil
}

func (c *cursor) u32(what string) (uint32, error) {
	v, err := c.bytes(4, what)
	if err != nil {
		return 0, err
	}
	return binary.BigEndian.Uint32(v), nil
}

// field16 reads bytes that a 16-bit length precedes.
func (c *cursor) field16(what string) ([]byte, error) {
	n, err := c.u16(what)
	if err != nil {
		return nil, err
	}
	return c.bytes(int(n), what)
}

// uid16 reads a UID that a 16-bit length precedes.
func (c *cursor) uid16(what string) (string, error) {
	v, err := c.field16(what)
	return trimUID(v), err
}

// item reads one item: type, reserved byte, 16-bit length and value.
func (c *cursor) item() (kind byte, value cursor, err error) {
	head, err := c.bytes(2, "item header")
	if err != nil {
		return 0, cursor{}, err
	}
	v, err := c.field16("item")
	return head[0], cursor{v}, err
}

// trimUID drops the padding that some peers add although PS3.8 9.3 has none.
func trimUID(b []byte) string { return strings.TrimRight(string(b), " \x00") }
