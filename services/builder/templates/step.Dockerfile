FROM {{ base }}
USER root
COPY . /mecapy-build/
{%- if max_processes %}
RUN ["/opt/venv/bin/python", "-I", "-S", "/mecapy-build/confined.py", "{{ max_processes }}", "/mecapy-build/{{ script }}"]
{%- else %}
RUN ["/bin/sh", "/mecapy-build/{{ script }}"]
{%- endif %}
