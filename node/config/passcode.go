package config

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

const (
	passcodeScheme = "pbkdf2-sha256"
	// passcodeIterations costs a guess some tens of milliseconds. An
	// association costs the node the same, which is why it is not more.
	passcodeIterations    = 100_000
	minPasscodeIterations = 10_000
	maxPasscodeIterations = 2_000_000 // above it, asking would keep the node busy
	passcodeSalt          = 16
	minPasscodeSalt       = 8
)

// HashPasscode returns what stands for a passcode in `users[].passcode`. From
// it the passcode can only be guessed.
func HashPasscode(passcode []byte) (string, error) {
	if len(passcode) == 0 {
		return "", errors.New("the passcode is empty")
	}
	salt := make([]byte, passcodeSalt)
	_, _ = rand.Read(salt) // never fails, as its documentation says
	key, err := pbkdf2.Key(sha256.New, string(passcode), salt, passcodeIterations, sha256.Size)
	if err != nil {
		return "", fmt.Errorf("hash the passcode: %w", err)
	}
	return formatPasscode(salt, key), nil
}

func formatPasscode(salt, key []byte) string {
	return fmt.Sprintf("%s:%d:%s:%s", passcodeScheme, passcodeIterations,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(key))
}

// Nobody stands for a user who is not known: no passcode is his, and to find that out
// takes as long as for one who is, so that a peer cannot tell names by the time.
var Nobody = User{Passcode: formatPasscode(make([]byte, passcodeSalt), make([]byte, sha256.Size))}

// hashedPasscode is `users[].passcode`, taken apart.
type hashedPasscode struct {
	iterations int
	salt, key  []byte
}

func parsePasscode(s string) (hashedPasscode, error) {
	wrong := errors.New("not what `hilum config passcode` prints")
	parts := strings.Split(s, ":")
	if len(parts) != 4 || parts[0] != passcodeScheme {
		return hashedPasscode{}, wrong
	}
	iterations, err := strconv.Atoi(parts[1])
	salt, errSalt := base64.RawStdEncoding.Strict().DecodeString(parts[2])
	key, errKey := base64.RawStdEncoding.Strict().DecodeString(parts[3])
	if err != nil || errSalt != nil || errKey != nil || len(salt) < minPasscodeSalt || len(key) != sha256.Size ||
		iterations < minPasscodeIterations || iterations > maxPasscodeIterations {
		return hashedPasscode{}, wrong
	}
	return hashedPasscode{iterations, salt, key}, nil
}

// Verify says whether passcode is the user's. It takes as long for a wrong one
// as for the right one, and for a user without a passcode nothing is right.
func (u User) Verify(passcode []byte) bool {
	h, err := parsePasscode(u.Passcode)
	if err != nil {
		return false
	}
	key, err := pbkdf2.Key(sha256.New, string(passcode), h.salt, h.iterations, sha256.Size)
	return err == nil && subtle.ConstantTimeCompare(key, h.key) == 1
}
