#!/bin/sh
# Prints the Secrets with the certificate of the example's PostgreSQL, for its namespace, and with its CA, for those that connect:
# sh certificate.sh | kubectl apply -f -
#
# Nobody keeps the CA's key. So a second run makes another CA: restart PostgreSQL, the relay and the pods with sidecars after it.
set -eu
name=postgres.stores.svc.cluster.local
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
printf 'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n' >ca.ext
printf 'subjectAltName=DNS:%s,DNS:postgres.stores.svc\nextendedKeyUsage=serverAuth\n' "$name" >tls.ext
for file in ca tls; do
  openssl ecparam -name prime256v1 -genkey -noout -out "$file.key"
done
openssl req -new -key ca.key -subj "/CN=CA of $name" -out ca.csr
openssl x509 -req -in ca.csr -signkey ca.key -days 3650 -extfile ca.ext -out ca.crt 2>ca.log || { cat ca.log >&2; exit 1; }
openssl req -new -key tls.key -subj "/CN=$name" -out tls.csr
openssl x509 -req -in tls.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 825 -extfile tls.ext -out tls.crt 2>tls.log ||
  { cat tls.log >&2; exit 1; }

secret() { # NAMESPACE NAME FILE...
  printf -- '---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: %s\n  namespace: %s\nstringData:\n' "$2" "$1"
  shift 2
  for file; do
    printf '  %s: |\n' "$file"
    sed 's/^/    /' "$file"
  done
}
secret stores postgres-tls tls.crt tls.key
secret shop postgres-ca ca.crt
secret cache-sidecar postgres-ca ca.crt
