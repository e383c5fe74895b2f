//go:build !linux

package netmon

import "errors"

// Gateways is not known how to do here. So no peers are remembered: networks could not be told apart.
func Gateways() ([]Gateway, error) { return nil, errors.ErrUnsupported }
