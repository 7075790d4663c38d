package dataset

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"math/big"
)

const (
	// ImplementationClassUID names Hilum in file meta information and in association
	// negotiation (PS3.7 D.3.3.2). It never changes.
	ImplementationClassUID = "2.25.77164307849895883923251243757423781569"
	// ImplementationVersionName is the version beside it, at most 16 characters.
	ImplementationVersionName = "HILUM_0_1"

	maxUID = 64 // PS3.5 9.1
)

// NewUID returns a UID that nobody has used: a random UUID below 2.25 (PS3.5 B.2).
func NewUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the process instead
	return uuidUID(b, 4)
}

// StableUID returns the same UID for the same parts, below 2.25 like NewUID. The UUID
// in it is of version 8 (RFC 9562): a SHA-256 of the parts.
func StableUID(parts ...string) string {
	hash := sha256.New()
	for _, p := range parts {
		// The length keeps ("a","bc") apart from ("ab","c").
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(p)))
		hash.Write(n[:])
		hash.Write([]byte(p))
	}
	return uuidUID([16]byte(hash.Sum(nil)[:16]), 8)
}

func uuidUID(b [16]byte, version byte) string {
	b[6] = b[6]&0x0F | version<<4
	b[8] = b[8]&0x3F | 0x80
	return "2.25." + new(big.Int).SetBytes(b[:]).String()
}

// ValidUID reports whether s follows PS3.5 9.1: at most 64 characters, digits in
// components that are separated by single dots. Leading zeros are tolerated: scanners
// send them.
func ValidUID(s string) bool {
	if s == "" || len(s) > maxUID {
		return false
	}
	last := byte('.')
	for i := range len(s) {
		c := s[i]
		if c != '.' && (c < '0' || c > '9') || c == '.' && last == '.' {
			return false
		}
		last = c
	}
	return last != '.'
}
