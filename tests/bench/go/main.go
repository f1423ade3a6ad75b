// Another reference for a hit: a grpc-go server that does nothing but return one constant reply.
//
// `bare METHOD_PATH REPLY_FILE` prints the port it chose.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"os"
	"strings"

	"google.golang.org/grpc"
)

// bytesCodec leaves messages as they are.
type bytesCodec struct{}

func (bytesCodec) Name() string                  { return "proto" }
func (bytesCodec) Marshal(v any) ([]byte, error) { return *v.(*[]byte), nil }
func (bytesCodec) Unmarshal(data []byte, v any) error {
	*v.(*[]byte) = data
	return nil
}

func main() {
	reply, err := os.ReadFile(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	path := strings.Split(os.Args[1], "/")
	answer := func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var request []byte
		return &reply, decode(&request)
	}
	server := grpc.NewServer(grpc.ForceServerCodec(bytesCodec{}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: path[1],
		HandlerType: (*any)(nil),
		Methods:     []grpc.MethodDesc{{MethodName: path[2], Handler: answer}},
	}, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(listener.Addr().(*net.TCPAddr).Port)
	log.Fatal(server.Serve(listener))
}
