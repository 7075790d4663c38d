package store

import "syscall"

// Failing returns the options of a store on a disk where one write in twenty fails or
// ends early, one sync in twenty fails, and one transaction on a series file in sixty.
// random returns a number below its argument.
func Failing(o Options, random func(n int) int) Options {
	o.faults = &faults{
		write: func() error {
			switch random(40) {
			case 0:
				return syscall.EIO
			case 1:
				return &shortWrite{random(60), syscall.ENOSPC}
			}
			return nil
		},
		sync: func() error {
			if random(20) == 0 {
				return syscall.EIO
			}
			return nil
		},
		file: func() error {
			if random(60) == 0 {
				return syscall.ENOSPC
			}
			return nil
		},
	}
	return o
}
