{{- /* The configuration of a service: (list root service). It is YAML, which the services read as they read TOML. */ -}}
{{- define "parapet.config" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $values := $root.Values -}}
{{- $fact := get (include "parapet.services" $root | fromYaml) $name -}}
{{- $service := get $values.services $name -}}
{{- $dir := "/etc/parapet" -}}
{{- $own := dict "cert_file" (printf "%s/tls/tls.crt" $dir) "key_file" (printf "%s/tls/tls.key" $dir) -}}

{{- $database := dict
    "host" $values.database.host "port" (int $values.database.port) "database" $values.database.name
    "user" $fact.role "password_file" (printf "%s/database/password" $dir) "tls" "verify-full" -}}
{{- if $values.database.ca.secret }}{{ $_ := set $database "ca_file" (printf "%s/database/ca.crt" $dir) }}{{ end -}}
{{- with $values.database.pooler }}{{ $_ := set $database "pooler" . }}{{ end -}}
{{- if $values.database.clientCertificates }}{{ $database = merge $database $own }}{{ end -}}

{{- $broker := dict
    "host" $values.broker.host "port" (int $values.broker.port) "vhost" $values.broker.vhost
    "user" $name "password_file" (printf "%s/broker/password" $dir) "tls" true -}}
{{- if $values.broker.ca.secret }}{{ $_ := set $broker "ca_file" (printf "%s/broker/ca.crt" $dir) }}{{ end -}}
{{- if $values.broker.clientCertificates }}{{ $broker = merge $broker $own }}{{ end -}}

{{- $telemetry := dict "log" $values.telemetry.log "format" "json" -}}
{{- with $values.telemetry.otlpEndpoint }}{{ $_ := set $telemetry "otlp_endpoint" . }}{{ end -}}

{{- $common := dict
    "database" $database "broker" $broker "telemetry" $telemetry
    "http" (dict "listen" (printf "%s:9090" $values.listenAddress))
    "tls" (merge (dict "ca_file" (printf "%s/tls/ca.crt" $dir)) $own)
    "lifecycle" (dict "grace_seconds" (int $service.graceSeconds) "drain_seconds" (int $service.drainSeconds)) -}}
{{- if $fact.grpc -}}
{{- $grpc := dict "listen" (printf "%s:8443" $values.listenAddress) -}}
{{- $allow := dict -}}
{{- range $method, $callers := $root.Files.Get "files/callers.json" | fromJson -}}
{{- range $served := $fact.serves -}}
{{- if hasPrefix (printf "parapet.internal.v1.%s/" $served) $method -}}
{{- $names := list -}}
{{- range $callers }}{{ $names = append $names (printf "%s.%s" . $values.tls.domain) }}{{ end -}}
{{- $_ := set $allow $method $names -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $allow }}{{ $_ := set $grpc "allow" . }}{{ end -}}
{{- $_ := set $common "grpc" $grpc -}}
{{- end -}}
{{- $peers := dict -}}
{{- range $peer := $fact.calls -}}
{{- $host := printf "%s.%s.svc" (include "parapet.name" (list $root $peer)) $root.Release.Namespace -}}
{{- $_ := set $peers $peer (dict "address" (printf "https://%s:8443" $host) "server_name" (printf "%s.%s" $peer $values.tls.domain)) -}}
{{- end -}}
{{- with $peers }}{{ $_ := set $common "peers" . }}{{ end -}}

{{- $made := dict "common" $common -}}
{{- $keys := dict -}}
{{- range $purpose := $fact.keys -}}
{{- $vault := get $values.keys.vault $purpose -}}
{{- if $vault -}}
{{- $vault = deepCopy $vault -}}
{{- if $values.keys.vaultCa.secret }}{{ $_ := set $vault "ca_file" (printf "%s/vault/ca.crt" $dir) }}{{ end -}}
{{- if and $vault.kubernetes (not $vault.kubernetes.token_file) }}{{ $_ := set $vault.kubernetes "token_file" (printf "%s/vault/token" $dir) }}{{ end -}}
{{- $_ := set $keys $purpose (dict "vault" $vault) -}}
{{- else -}}
{{- $_ := set $keys $purpose (printf "%s/keys/%s.key" $dir $purpose) -}}
{{- end -}}
{{- end -}}
{{- if and $values.keys.rotation (has $name (list "identity-sync-worker" "credential-validator")) -}}
{{- $_ := set $keys "rotation" $values.keys.rotation -}}
{{- end -}}
{{- $idp := deepCopy $values.idp -}}
{{- if $values.idpCa.secret }}{{ $_ := set $idp "extra_ca" (printf "%s/idp/ca.crt" $dir) }}{{ end -}}

{{- if eq $name "integration-api" -}}
{{- $_ := set $keys "integration_verifier" (printf "%s/keys/integration.pub" $dir) -}}
{{- $_ := set $keys "leak_verifier" (printf "%s/keys/leak.pub" $dir) -}}
{{- $api := dict "public_url" $values.api.publicUrl -}}
{{- if ne $values.api.tls.from "none" -}}
{{- $tls := dict "cert_file" (printf "%s/public/tls.crt" $dir) "key_file" (printf "%s/public/tls.key" $dir) -}}
{{- if $values.api.tls.clientCa.secret }}{{ $_ := set $tls "client_ca_file" (printf "%s/public/clients.crt" $dir) }}{{ end -}}
{{- $_ := set $api "tls" $tls -}}
{{- end -}}
{{- with $values.api.services }}{{ $_ := set $api "services" . }}{{ end -}}
{{- $_ := set $made "api" $api -}}
{{- $oidc := deepCopy $values.oidc -}}
{{- if $values.oidcCa.secret }}{{ $_ := set $oidc "ca_file" (printf "%s/oidc/ca.crt" $dir) }}{{ end -}}
{{- $_ := set $made "oidc" $oidc -}}
{{- with $idp.okta_domains }}{{ $_ := set $made "idp" (dict "okta_domains" .) }}{{ end -}}
{{- else if $fact.egress -}}
{{- with $idp }}{{ $_ := set $made "idp" . }}{{ end -}}
{{- end -}}
{{- if eq $name "credential-validator" -}}
{{- $_ := set $keys "digest" (printf "%s/keys/digest.hex" $dir) -}}
{{- $_ := set $made "validator" (dict "synchronous_replication" $values.database.synchronousReplication) -}}
{{- end -}}
{{- if eq $name "audit-writer" -}}
{{- $_ := set $made "checkpoint" (dict "key_file" (printf "%s/keys/checkpoint.pem" $dir)) -}}
{{- end -}}
{{- with $keys }}{{ $_ := set $made "keys" . }}{{ end -}}
{{- toYaml (mergeOverwrite $made (deepCopy (default dict $service.config))) -}}
{{- end }}

{{- /* The files of a service, each below /etc/parapet: (list root service). Every source is optional: a pod whose Secret is
missing starts as far as its configuration check, which names every file that is missing. */ -}}
{{- define "parapet.files" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $values := $root.Values -}}
{{- $fact := get (include "parapet.services" $root | fromYaml) $name -}}
{{- $service := get $values.services $name -}}
- configMap:
    name: {{ include "parapet.name" (list $root $name) }}
    items: [{ key: config.yaml, path: config.yaml }]
{{ include "parapet.file" (list $service.databasePassword.secret $service.databasePassword.key "database/password") }}
{{ include "parapet.file" (list $service.brokerPassword.secret $service.brokerPassword.key "broker/password") }}
{{- include "parapet.file" (list $values.database.ca.secret $values.database.ca.key "database/ca.crt") }}
{{- include "parapet.file" (list $values.broker.ca.secret $values.broker.ca.key "broker/ca.crt") }}
- secret:
    name: {{ include "parapet.name" (list $root $name) }}-tls
    optional: true
    items:
      - { key: tls.crt, path: tls/tls.crt }
      - { key: tls.key, path: tls/tls.key }
      - { key: ca.crt, path: tls/ca.crt }
{{- $vaulted := false }}
{{- $login := false }}
{{- range $purpose := $fact.keys }}
{{- if get $values.keys.vault $purpose }}
{{- $vaulted = true }}
{{- if (get $values.keys.vault $purpose).kubernetes }}{{ $login = true }}{{ end }}
{{- else }}
{{- $key := get $values.keys $purpose }}
{{- include "parapet.file" (list $key.secret $key.key (printf "keys/%s.key" $purpose)) }}
{{- end }}
{{- end }}
{{- if $vaulted }}
{{- include "parapet.file" (list $values.keys.vaultCa.secret $values.keys.vaultCa.key "vault/ca.crt") }}
{{- end }}
{{- if $login }}
- serviceAccountToken: { path: vault/token, audience: vault, expirationSeconds: 3600 }
{{- end }}
{{- if $fact.egress }}
{{- include "parapet.file" (list $values.idpCa.secret $values.idpCa.key "idp/ca.crt") }}
{{- end }}
{{- if eq $name "credential-validator" }}
{{- include "parapet.file" (list $values.keys.digest.secret $values.keys.digest.key "keys/digest.hex") }}
{{- else if eq $name "audit-writer" }}
{{- include "parapet.file" (list $values.keys.checkpoint.secret $values.keys.checkpoint.key "keys/checkpoint.pem") }}
{{- else if eq $name "integration-api" }}
{{- include "parapet.file" (list $values.keys.public.secret $values.keys.public.integrationKey "keys/integration.pub") }}
{{- include "parapet.file" (list $values.keys.public.secret $values.keys.public.leakKey "keys/leak.pub") }}
{{- include "parapet.file" (list $values.oidcCa.secret $values.oidcCa.key "oidc/ca.crt") }}
{{- if ne $values.api.tls.from "none" }}
- secret:
    name: {{ $values.api.tls.secretName }}
    optional: true
    items:
      - { key: tls.crt, path: public/tls.crt }
      - { key: tls.key, path: public/tls.key }
{{- include "parapet.file" (list $values.api.tls.clientCa.secret $values.api.tls.clientCa.key "public/clients.crt") }}
{{- end }}
{{- end }}
{{- end }}

{{- /* One key of a Secret as a file: (list secret key path). Nothing without a Secret. */ -}}
{{- define "parapet.file" -}}
{{- if index . 0 }}
- secret:
    name: {{ index . 0 }}
    optional: true
    items: [{ key: {{ index . 1 }}, path: {{ index . 2 }} }]
{{- end }}
{{- end }}
