{{- /* Everything that is missing or contradicts itself, in one message. */ -}}
{{- define "parapet.check" -}}
{{- $values := .Values -}}
{{- $faults := list -}}
{{- range $path, $value := dict
    "database.host" $values.database.host "broker.host" $values.broker.host "api.publicUrl" $values.api.publicUrl
    "oidc.issuer" $values.oidc.issuer "oidc.audience" $values.oidc.audience }}
{{- if not $value }}{{ $faults = append $faults (printf "%s: is required" $path) }}{{ end }}
{{- end }}
{{- if and (eq $values.tls.from "certManager") (not $values.tls.certManager.issuerRef.name) }}
{{- $faults = append $faults "tls.certManager.issuerRef.name: is required, or tls.from: secrets" }}
{{- end }}
{{- if eq $values.api.tls.from "certManager" }}
{{- if not $values.api.tls.issuerRef.name }}{{ $faults = append $faults "api.tls.issuerRef.name: is required, or api.tls.from: secret" }}{{ end }}
{{- if not $values.api.tls.dnsNames }}{{ $faults = append $faults "api.tls.dnsNames: at least one is required" }}{{ end }}
{{- end }}
{{- if and $values.api.services (or (eq $values.api.tls.from "none") (not $values.api.tls.clientCa.secret)) }}
{{- $faults = append $faults "api.services: needs api.tls.clientCa.secret, the authority of their certificates" }}
{{- end }}
{{- if and $values.api.ingress.enabled (not $values.api.ingress.host) }}
{{- $faults = append $faults "api.ingress.host: is required" }}
{{- end }}
{{- if $values.keys.vault }}
{{- range $purpose, $_ := $values.keys.vault }}
{{- if not (has $purpose (list "integration" "leak")) }}{{ $faults = append $faults (printf "keys.vault.%s: the purposes are integration and leak" $purpose) }}{{ end }}
{{- end }}
{{- end }}
{{- range $name, $service := $values.services }}
{{- if ge (int $service.drainSeconds) (int $service.graceSeconds) }}
{{- $faults = append $faults (printf "services.%s.drainSeconds: must be below graceSeconds, which it is part of" $name) }}
{{- end }}
{{- end }}
{{- range $name, $fact := include "parapet.services" . | fromYaml }}
{{- $scaling := get $values.autoscaling $name }}
{{- $scaled := include "parapet.scaled" (list $ $name) }}
{{- $most := int (get $values.services $name).replicas }}
{{- if $scaled }}
{{- $most = int $scaling.maxReplicas }}
{{- if gt (int $scaling.minReplicas) $most }}{{ $faults = append $faults (printf "autoscaling.%s.minReplicas: must be at most maxReplicas" $name) }}{{ end }}
{{- end }}
{{- if and $fact.egress (gt (mul $most $values.autoscaling.quotaPercent) 100) }}
{{- $faults = append $faults (printf "%s: %d processes that take %d %% each are more than a directory allows; fewer, or less each (autoscaling.quotaPercent and the integrations' quota-percent)" $name $most (int $values.autoscaling.quotaPercent)) }}
{{- end }}
{{- if and $scaled $fact.egress (eq $values.autoscaling.keda.trigger "age") (not $values.autoscaling.keda.prometheus.serverAddress) }}
{{- $faults = append $faults (printf "autoscaling.keda.prometheus.serverAddress: is required by autoscaling.%s" $name) }}
{{- end }}
{{- end }}
{{- if and $values.networkPolicy.enabled (not $values.networkPolicy.cilium.enabled) (not $values.networkPolicy.issuer) }}
{{- $faults = append $faults "networkPolicy.issuer: say where the token issuer is (a list of NetworkPolicy peers), or use networkPolicy.cilium, which knows its name" }}
{{- end }}
{{- with $faults }}
{{- fail (printf "\n\nthe values have %d fault(s):\n  %s\n" (len .) (join "\n  " (uniq . | sortAlpha))) }}
{{- end }}
{{- end }}
