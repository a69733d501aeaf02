{{/* barograph.yaml: what the mode needs, and the values' own config on top of it. */}}

{{- define "barograph.config" -}}
{{- include "barograph.check" . -}}
{{- $name := include "barograph.fullname" . -}}
{{- $socket := printf "unix:%s" (include "barograph.engineSocket" .) -}}
{{- $upstream := $socket -}}
{{- if eq .Values.mode "wrapper" }}{{ $upstream = .Values.upstream }}{{ end -}}
{{- if and (eq .Values.mode "attach") (eq .Values.attach.listen "port") }}{{ $upstream = printf "http://127.0.0.1:%d" (int .Values.attach.port) }}{{ end -}}
{{- $rules := .Values.rules.pack -}}
{{- if include "barograph.rulesConfigMap" . }}{{ $rules = printf "/etc/barograph/rules/%s" .Values.rules.main }}{{ end -}}
{{- $gateway := dict "listen" (printf "%s:%d" .Values.listen.host (int .Values.listen.gateway)) "upstream" $upstream -}}
{{- if eq .Values.mode "wrapper" }}{{ $_ := set $gateway "wrap" true }}{{ end -}}
{{- with .Values.tls.gateway -}}
{{- if .secret -}}
{{- $tls := dict "cert_file" "/etc/barograph/tls/gateway/tls.crt" "key_file" "/etc/barograph/tls/gateway/tls.key" -}}
{{- if .clientCA }}{{ $_ := set $tls "client_ca_file" "/etc/barograph/tls/gateway/ca.crt" }}{{ end -}}
{{- $_ := set $gateway "tls" $tls -}}
{{- end -}}
{{- end -}}
{{/* A Service leads here by these names, and the admin address refuses all others. */}}
{{- $hosts := list -}}
{{- range $host := list (printf "%s-admin" $name) -}}
{{- $hosts = concat $hosts (list $host (printf "%s.%s" $host $.Release.Namespace) (printf "%s.%s.svc" $host $.Release.Namespace)) -}}
{{- end -}}
{{- $sidecar := dict "admin" (printf "%s:%d" .Values.listen.host (int .Values.listen.admin)) "ledger" "/var/lib/barograph/ledger" -}}
{{- $_ := set $sidecar "admin_hosts" (concat $hosts (dig "sidecar" "admin_hosts" list .Values.config) | uniq) -}}
{{- with .Values.secrets.access }}{{ if .name }}{{ $_ := set $sidecar "access" (printf "/etc/barograph/access/%s" .key) }}{{ end }}{{ end -}}
{{- if .Values.tls.admin.secret }}{{ $_ := set $sidecar "tls" (dict "cert_file" "/etc/barograph/tls/admin/tls.crt" "key_file" "/etc/barograph/tls/admin/tls.key") }}{{ end -}}
{{- $made := dict
  "socket" "/run/barograph/tap.sock"
  "rules" $rules
  "engine" (dict "model" .Values.model "listen" $socket)
  "gateway" $gateway
  "sidecar" $sidecar
-}}
{{- if ne .Values.bank.source "shipped" }}{{ $_ := set $made "tap" (dict "bank" (printf "/etc/barograph/bank/%s" .Values.bank.path | trimSuffix "/")) }}{{ end -}}
{{- $given := deepCopy .Values.config -}}
{{- if hasKey $given "sidecar" }}{{ $_ := set $given "sidecar" (omit (default dict $given.sidecar) "admin_hosts") }}{{ end -}}
{{- mustMergeOverwrite $made $given | toYaml -}}
{{- end }}
