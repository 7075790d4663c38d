package host

import (
	"maps"
	"slices"
	"strings"
)

// identityKeywords are the elements that say who the patient is (PS3.15 E.1,
// the rows of the patient module). No plugin needs them.
var identityKeywords = []string{
	"PatientName", "PatientID", "PatientBirthDate", "PatientBirthTime", "PatientBirthName",
	"PatientMotherBirthName", "OtherPatientIDs", "OtherPatientNames", "PatientAddress",
	"PatientTelephoneNumbers", "IssuerOfPatientID",
}

// minHiddenBytes keeps short values, such as an ID of "1", from wiping the
// digits out of every line.
const minHiddenBytes = 4

const hiddenMark = "[hidden]"

// withoutIdentity returns series without the patient's identity, and a replacer
// that takes the same values out of a plugin's words. A plugin can still read
// the files of its job, so the replacer is a second line behind the rule that
// a plugin prints no patient data; it catches careless programs, not clever ones.
func withoutIdentity(series map[string]string) (map[string]string, *strings.Replacer) {
	rest := maps.Clone(series)
	var secrets []string
	for _, keyword := range identityKeywords {
		value, ok := rest[keyword]
		if !ok {
			continue
		}
		delete(rest, keyword)
		secrets = append(secrets, value)
		secrets = append(secrets, strings.FieldsFunc(value, func(r rune) bool { return strings.ContainsRune(`^=\ `, r) })...)
	}
	// The replacer takes the first pair that fits at a place: the longest must come first.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	var pairs []string
	for _, s := range secrets {
		if len(s) >= minHiddenBytes {
			pairs = append(pairs, s, hiddenMark, strings.ToUpper(s), hiddenMark, strings.ToLower(s), hiddenMark)
		}
	}
	return rest, strings.NewReplacer(pairs...)
}
