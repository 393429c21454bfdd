FROM {{ base }}
{%- if replaces_venv %}
USER root
RUN ["/bin/rm", "-rf", "/opt/venv"]
{%- endif %}
COPY --from={{ installed }} /opt/venv /opt/venv
LABEL org.mecapy.dependencies.key="{{ key }}"
USER mecapy
