// Package api is the contract between a Hilum node and its analysis plugins.
//
// A plugin is a program that calls Serve with a Plugin. The node starts it as a
// process of its own and speaks gRPC with it (pluginpb/plugin.proto) over
// go-plugin: mutual TLS with one-time certificates, the health service
// grpc.health.v1, nothing else. Every position is in DICOM patient coordinates
// (LPS, PS3.3 C.7.6.2.1.1) in mm, every probability in [0,1].
//
// What a plugin answers is not trusted: Client bounds its size while it arrives
// and hands out a Result only after Validate. The package imports nothing of
// Hilum, so a plugin author compiles the contract and no more.
package api

//go:generate protoc -I ../.. --go_out=../.. --go_opt=paths=source_relative --go-grpc_out=../.. --go-grpc_opt=paths=source_relative plugins/api/pluginpb/plugin.proto
