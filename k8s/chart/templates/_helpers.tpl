{{- define "cache-sidecar.version" -}}
{{ $.Values.image.tag | default $.Chart.AppVersion }}
{{- end }}

{{- define "cache-sidecar.image" -}}
{{- with $.Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ include "cache-sidecar.version" $ }}{{ end }}
{{- end }}
{{- end }}

{{- /* The name of what belongs to the relay of a region. */}}
{{- define "cache-sidecar.relay" -}}
cache-sidecar-relay{{ with .name }}-{{ . }}{{ end }}
{{- end }}
