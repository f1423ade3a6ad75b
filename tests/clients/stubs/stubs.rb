# Makes the calls of `tests/clients/raw_stubs.py` with the stubs that protoc generates:
#     ruby stubs.rb FOLDER_OF_STUBS
require "grpc"
require "json"

gen = ARGV.fetch(0)
$LOAD_PATH.unshift gen
Dir.glob("cache_sidecar/v1/*_services_pb.rb", base: gen) { |file| require file }
%w[error_details status].each { |name| require "google/rpc/#{name}_pb" }

def setting(name)
  value = ENV.fetch("CONFORMANCE_#{name}", "")
  value unless value.empty?
end

ca, cert, key = %w[CA CERT KEY].map { |name| (file = setting(name)) && File.read(file) }
CREDENTIALS = ca ? GRPC::Core::ChannelCredentials.new(ca, key, cert) : :this_channel_is_insecure
OPTIONS = { "grpc.ssl_target_name_override" => setting("SERVER_NAME") }.compact
METADATA = (file = setting("TOKEN_FILE")) ? { "authorization" => "Bearer #{File.read(file).strip}" } : {}
STUBS = Hash.new do |stubs, service|
  stub = CacheSidecar::V1.const_get(service)::Stub
  stubs[service] = stub.new(setting("ADDRESS"), CREDENTIALS, channel_args: OPTIONS)
end
OPERATIONS = {}
LOCK = Mutex.new

def say(id, **line)
  LOCK.synchronize { $stdout.puts({ id: id, **line }.to_json) }
end

def json(message)
  JSON.parse(message.class.encode_json(message))
end

def call(id, path, request)
  service, method = path.delete_prefix("/cache_sidecar.v1.").split("/")
  description = CacheSidecar::V1.const_get(service)::Service.rpc_descs.fetch(method.to_sym)
  message = description.input.decode_json(request.to_json)
  name = GRPC::GenericService.underscore(method)
  operation = LOCK.synchronize { STUBS[service] }.public_send(name, message, metadata: METADATA, return_op: true, deadline: Time.now + 90)
  OPERATIONS[id] = operation
  replies = operation.execute
  (description.server_streamer? ? replies : [replies]).each { |reply| say(id, reply: json(reply)) }
rescue GRPC::BadStatus => error
  say(id, error: { code: error.code, status: (status = error.to_rpc_status) && json(status) })
end

$stdout.sync = true
Thread.abort_on_exception = true
$stdin.each_line do |line|
  given = JSON.parse(line)
  if given.key?("cancel")
    OPERATIONS[given["cancel"]].cancel
  else
    Thread.new { call(*given.values_at("id", "method", "request")) }
  end
end
exit!(true)
